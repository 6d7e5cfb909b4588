"""spconv-triton as a backend: parity on a GPU, and elsewhere what it is given."""

import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
import torch

import sar.ops
from sar.errors import InputError
from sar.modeling.point_segmentor import choose_backend
from sar.ops.sparse_convolution import sparse_convolution
from sar.points.layers import SparseTensor, use_spconv_triton
from sar.points.sites import Sites
from sar.points.sparse_unet import SparseUNet

KINDS = ["kernel 3", "kernel 5", "kernel 1", "down", "up"]


def draw_sites(device="cpu", number=60):
    generator = torch.Generator().manual_seed(0)
    clouds = torch.randint(2, (number,), generator=generator)
    voxels = torch.randint(5, (number, 3), generator=generator)
    return Sites.of_voxels(clouds.to(device), voxels.to(device))[0]


def pairs_of(sites, kind):
    if kind.startswith("kernel"):
        return sites.neighbours(int(kind[-1]))
    return sites.to_coarser if kind == "down" else sites.to_coarser.reversed()


@pytest.fixture
def spconv(monkeypatch):
    """Our module, with a stand-in for spconv-triton that computes in plain PyTorch."""
    package, api, functional = (ModuleType(name) for name in ("a", "b", "c"))
    api.ConvAlgo = SimpleNamespace(Native="native")
    functional.indice_conv = convolve
    for name, module in (("", package), (".pytorch", api), (".pytorch.functional", functional)):
        monkeypatch.setitem(sys.modules, f"spconv_triton{name}", module)
    name = "sparse_convolution_spconv"
    forget(name)
    from sar.ops import sparse_convolution_spconv

    yield sparse_convolution_spconv
    forget(name)


def forget(name):
    sys.modules.pop(f"sar.ops.{name}", None)
    vars(sar.ops).pop(name, None)


def convolve(features, filters, indice_pairs, indice_pair_num, num_activate_out, algo):
    """The convolution by the documentation of spconv: one pair after the other; -1 is no pair."""
    assert algo == "native" and indice_pairs.dtype == indice_pair_num.dtype == torch.int32
    assert not torch.is_autocast_enabled("cpu")
    rows = [features.new_zeros(filters.shape[0]) for _ in range(num_activate_out)]
    for offset, count in enumerate(indice_pair_num.tolist()):
        inputs, outputs = indice_pairs[:, offset].tolist()
        assert all(index == -1 for index in inputs[count:] + outputs[count:])
        for v, u in zip(inputs[:count], outputs[:count], strict=True):
            rows[u] = rows[u] + filters[:, offset] @ features[v]
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_spconv_gets_the_pairs_in_its_format(spconv, kind):
    pairs = pairs_of(draw_sites(), kind)
    features = torch.randn(pairs.num_inputs, 3)
    weight = torch.randn(2, len(pairs.inputs), 3)
    expected = sparse_convolution(features, weight, pairs)
    torch.testing.assert_close(spconv.by_spconv(features, weight, pairs), expected)
    with torch.autocast("cpu", torch.bfloat16):
        low = spconv.by_spconv(features, weight, pairs)
    assert low.dtype == torch.bfloat16  # and not float16, spconv's own choice
    torch.testing.assert_close(low.float(), expected, rtol=0.1, atol=0.1)
    # On the CPU, and in float64, PyTorch computes.
    assert torch.equal(spconv.sparse_convolution(features, weight, pairs), expected)


def test_tables_are_made_once(spconv):
    pairs = draw_sites().to_coarser
    cpu = torch.device("cpu")
    table, _ = pairs.cached(spconv.indice_pairs, cpu)
    assert table is pairs.reversed().reversed().cached(spconv.indice_pairs, cpu)[0]
    assert torch.equal(pairs.reversed().cached(spconv.indice_pairs, cpu)[0], table.flip(0))


def test_all_layers_of_a_network_use_it(spconv, monkeypatch):
    model = SparseUNet(3, stem=4, channels=(4, 4), blocks=(1, 1))
    calls = []
    monkeypatch.setattr(
        spconv, "sparse_convolution", lambda *x: calls.append(1) or sparse_convolution(*x)
    )
    use_spconv_triton(model)
    sites = draw_sites()
    model(SparseTensor(torch.randn(len(sites), 3), sites))
    assert len(calls) == 1 + (1 + 2) * 2  # stem; encoder and decoder with a block each


def test_the_key(spconv, monkeypatch):
    unet = SparseUNet(3, stem=4, channels=(4, 4), blocks=(1, 1))
    with pytest.raises(InputError, match='BACKEND is "cuda", expected one of pytorch, spconv-tri'):
        choose_backend(unet, "cuda", torch.device("cpu"))
    choose_backend(unet, "pytorch", torch.device("cuda"))
    assert unet.stem.compute is sparse_convolution
    choose_backend(unet, "spconv-triton", torch.device("cuda"))
    assert unet.stem.compute is spconv.sparse_convolution
    # Without the package, only a GPU needs it.
    forget("sparse_convolution_spconv")
    monkeypatch.setitem(sys.modules, "spconv_triton.pytorch", None)
    choose_backend(unet, "spconv-triton", torch.device("cpu"))
    with pytest.raises(InputError, match="BACKEND spconv-triton needs this package"):
        choose_backend(unet, "spconv-triton", torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.skipif(not find_spec("spconv_triton"), reason="needs pip install -e .[spconv]")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_parity_on_a_gpu(kind, precision):
    from sar.ops import sparse_convolution_spconv as spconv

    torch.manual_seed(0)
    pairs = pairs_of(draw_sites("cuda", 3000), kind)
    features = torch.randn(pairs.num_inputs, 48, device="cuda", requires_grad=True)
    weight = torch.randn(32, len(pairs.inputs), 48, device="cuda", requires_grad=True)
    direction = torch.randn(pairs.num_outputs, 32, device="cuda")

    def compute(convolution, dtype=torch.float32, enabled=False):
        with torch.autocast("cuda", precision, enabled=enabled):
            result = convolution(features.to(dtype), weight.to(dtype), pairs)
        gradients = torch.autograd.grad(result, (features, weight), direction.to(result.dtype))
        return [result, *gradients]

    found = compute(spconv.sparse_convolution, enabled=precision != torch.float32)
    assert found[0].dtype == precision and found[1].dtype == torch.float32
    tolerance = 1e-5 if precision == torch.float32 else 2e-2
    for one, exact in zip(found, compute(sparse_convolution, torch.float64), strict=True):
        error = (one.double() - exact.double()).abs().max()
        assert error < tolerance * exact.abs().max()
