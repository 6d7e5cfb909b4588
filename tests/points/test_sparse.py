"""Sparse convolutions against dense ones of torch, and what must not change their results."""

import pytest
import torch
import torch.nn.functional as F

from sar.ops import sparse_convolution as engine
from sar.ops.sparse_convolution import SitePairs, sparse_convolution
from sar.points.layers import (
    DownConvolution,
    SparseTensor,
    SubmanifoldConvolution,
    UpConvolution,
)
from sar.points.sites import Sites
from sar.points.sparse_unet import SparseUNet

SIZE = 8  # of the grid, in voxels


def voxels(seed=0, number=60, clouds=2):
    """Clouds and coordinates of voxels, of which some occur twice; two touch the grid's corners."""
    generator = torch.Generator().manual_seed(seed)
    coordinates = torch.randint(SIZE, (number, 3), generator=generator)
    owners = torch.randint(clouds, (number,), generator=generator)
    for cloud in range(clouds):
        coordinates[2 * cloud], coordinates[2 * cloud + 1] = 0, SIZE - 1
        owners[2 * cloud : 2 * cloud + 2] = cloud
    return owners, coordinates


def tensor(seed=0, channels=3, **settings):
    sites, _ = Sites.of_voxels(*voxels(seed, **settings))
    generator = torch.Generator().manual_seed(seed + 1)
    features = torch.randn(len(sites), channels, generator=generator, dtype=torch.float64)
    return SparseTensor(features, sites)


def dense(x, size=SIZE):
    """A tensor (clouds, C, size, size, size) with zeros at empty voxels."""
    n, i, j, k = x.sites.coordinates.T
    grid = x.features.new_zeros(int(n.max()) + 1, x.features.shape[1], size, size, size)
    grid[n, :, i, j, k] = x.features
    return grid


def at_sites(grid, sites):
    n, i, j, k = sites.coordinates.T
    return grid[n, :, i, j, k]


def as_dense_weight(layer):
    return layer.weight.permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_submanifold_convolution_is_a_dense_one_at_the_sites(kernel_size):
    torch.manual_seed(0)
    layer = SubmanifoldConvolution(3, 4, kernel_size).double()
    x = tensor()
    x.features.requires_grad_()
    found = layer(x)
    assert found.sites is x.sites
    expected = F.conv3d(dense(x), as_dense_weight(layer), padding=kernel_size // 2)
    expected = at_sites(expected, x.sites)
    compare_with_gradients(found.features, expected, x.features, layer)


def test_a_down_convolution_is_a_dense_one_with_stride():
    torch.manual_seed(0)
    layer = DownConvolution(3, 4).double()
    x = tensor()
    x.features.requires_grad_()
    found = layer(x)
    assert found.sites is x.sites.coarser
    occupied = F.max_pool3d((dense(x).abs().sum(1, keepdim=True) > 0).double(), 2)
    assert len(found.sites) == occupied.sum()
    expected = F.conv3d(dense(x), as_dense_weight(layer), stride=2)
    compare_with_gradients(found.features, at_sites(expected, found.sites), x.features, layer)


def test_an_up_convolution_is_a_dense_transposed_one():
    torch.manual_seed(0)
    layer = UpConvolution(3, 4).double()
    finer = tensor().sites
    x = SparseTensor(torch.randn(len(finer.coarser), 3, dtype=torch.float64), finer.coarser)
    x.features.requires_grad_()
    found = layer(x, finer)
    assert found.sites is finer
    weight = layer.weight.permute(4, 0, 1, 2, 3)
    expected = F.conv_transpose3d(dense(x, SIZE // 2), weight, stride=2)
    compare_with_gradients(found.features, at_sites(expected, finer), x.features, layer)


def compare_with_gradients(found, expected, features, layer):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn(found.shape, dtype=torch.float64)
    inputs = [features, *layer.parameters()]
    gradients = torch.autograd.grad((found * direction).sum(), inputs)
    others = torch.autograd.grad((expected * direction).sum(), inputs)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)
        assert gradient.any()


@pytest.mark.parametrize("kind", ["neighbours", "to_coarser", "reversed"])
def test_gradcheck(kind):
    sites = tensor(number=12).sites
    pairs = {
        "neighbours": lambda: sites.neighbours(3),
        "to_coarser": lambda: sites.to_coarser,
        "reversed": lambda: sites.to_coarser.reversed(),
    }[kind]()
    features = torch.randn(pairs.num_inputs, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, len(pairs.inputs), 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x, w: sparse_convolution(x, w, pairs), (features, weight))


def test_the_pairs_are_those_of_a_search_over_all_sites():
    sites = tensor().sites
    pairs = sites.neighbours(3)
    where = {tuple(row): i for i, row in enumerate(sites.coordinates.tolist())}
    assert pairs.inputs[13] is None and pairs.outputs[13] is None
    number = len(sites)
    offsets = [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    for o, offset in enumerate(offsets):
        if offset == (0, 0, 0):
            continue
        expected = set()
        for (n, *place), u in where.items():
            v = where.get((n, *(p + q for p, q in zip(place, offset, strict=True))))
            if v is not None:
                expected.add((v, u))
        found = list(zip(pairs.inputs[o].tolist(), pairs.outputs[o].tolist(), strict=True))
        assert len(found) == len(set(found)) and set(found) == expected
        number += len(found)
    assert pairs.num_pairs == number


@pytest.mark.parametrize("most_pairs", [1, 3])
def test_blocks_of_any_size_give_the_same_result(most_pairs, monkeypatch):
    x = tensor()
    layers = [SubmanifoldConvolution(3, 4), DownConvolution(4, 4), UpConvolution(4, 2)]

    def compute():
        sites = Sites(x.sites.coordinates)  # without the blocks of another size
        y = layers[0](SparseTensor(x.features, sites))
        y = layers[2](layers[1](y), sites).features
        parameters = [p for layer in layers for p in layer.parameters()]
        gradients = torch.autograd.grad(y.square().sum(), [x.features, *parameters])
        return sites.neighbours(3).blocks(y.device), [y, *gradients]

    for layer in layers:
        layer.double()
    x.features.requires_grad_()
    blocks, expected = compute()
    assert len(blocks) == 1
    monkeypatch.setattr(engine, "_CPU_BLOCK", most_pairs)
    blocks, found = compute()
    assert len(blocks) > 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("wanted", ["features", "weight"])
def test_a_single_gradient(wanted):
    """The first layer needs no gradient of its input, and frozen layers none of their weight."""
    x, weight = tensor(), torch.randn(4, 27, 3, dtype=torch.float64)
    pairs = x.sites.neighbours(3)
    both = {"features": x.features.requires_grad_(), "weight": weight.requires_grad_()}
    expected = torch.autograd.grad(sparse_convolution(**both, pairs=pairs).sum(), both[wanted])
    alone = {name: value.detach() for name, value in both.items()}
    alone[wanted].requires_grad_()
    found = torch.autograd.grad(sparse_convolution(**alone, pairs=pairs).sum(), alone[wanted])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_pairs_ascend():
    sites = tensor().sites
    for pairs in (sites.neighbours(3), sites.to_coarser, sites.coarser.neighbours(5)):
        for index in (*pairs.inputs, *pairs.outputs):
            assert index is None or (index.diff() > 0).all()


def test_maps_are_computed_once_for_all_layers():
    sites = tensor().sites
    assert sites.neighbours(3) is sites.neighbours(3)
    assert sites.coarser is sites.coarser and sites.to_coarser is sites.to_coarser
    pairs, cpu = sites.to_coarser, torch.device("cpu")
    blocks, reversed_blocks = pairs.blocks(cpu), pairs.reversed().blocks(cpu)
    assert blocks is pairs.reversed().reversed().blocks(cpu) is not reversed_blocks
    assert reversed_blocks is pairs.reversed().blocks(cpu)


def test_sites_are_unique_sorted_and_start_at_zero():
    clouds, coordinates = voxels()
    sites, site_of = Sites.of_voxels(clouds, coordinates - 5)
    rows = [tuple(row) for row in sites.coordinates.tolist()]
    assert rows == sorted(set(rows))
    moved = torch.cat([clouds[:, None], coordinates], dim=1)
    assert torch.equal(sites.coordinates[site_of], moved)


def small_unet(in_channels=3):
    torch.manual_seed(0)
    model = SparseUNet(in_channels, stem=4, channels=(6, 8, 6, 5), blocks=(1, 2, 1, 1))
    return model.double()


def output(model, clouds, coordinates, features):
    """The output of each voxel, in their order."""
    sites, site_of = Sites.of_voxels(clouds, coordinates)
    of_sites = features.new_zeros(len(sites), features.shape[1])
    of_sites[site_of] = features
    return model(SparseTensor(of_sites, sites)).features[site_of]


@pytest.mark.parametrize("training", [False, True])
def test_order_of_points_and_clouds_and_translations_change_nothing(training):
    model = small_unet().train(training)
    clouds, coordinates = voxels()
    rows = torch.unique(torch.cat([clouds[:, None], coordinates], dim=1), dim=0)
    clouds, coordinates = rows[:, 0], rows[:, 1:]
    features = torch.randn(len(rows), 3, dtype=torch.float64)
    expected = output(model, clouds, coordinates, features)
    assert expected.shape == (len(rows), 5) == (len(rows), model.out_channels)
    order = torch.randperm(len(rows))
    shift = torch.tensor([[7, -3, 100], [-1, 0, 2]])
    for found in (
        output(model, 1 - clouds, coordinates, features),
        output(model, clouds, coordinates + shift[clouds], features),
        output(model, clouds[order], coordinates[order], features[order])[order.argsort()],
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_unet_trains_all_its_parameters():
    model = small_unet()
    x = tensor()
    y = model(x)
    assert y.sites is x.sites
    y.features.square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_clouds_do_not_see_each_other():
    model = small_unet().eval()
    x = tensor()
    together = model(x).features
    for cloud in range(2):
        mine = x.sites.coordinates[:, 0] == cloud
        rows = x.sites.coordinates[mine]
        alone = output(
            model, torch.zeros(len(rows), dtype=torch.int64), rows[:, 1:], x.features[mine]
        )
        torch.testing.assert_close(together[mine], alone, rtol=1e-10, atol=1e-12)


def test_published_widths():
    """SpUNet on ScanNet200, without its classifier: as many parameters as its layers have."""
    model = SparseUNet(9)

    def block(c, d):
        shortcut = c * d + 2 * d if c != d else 0
        return 27 * c * d + 27 * d * d + 4 * d + shortcut

    expected = 125 * 9 * 32 + 2 * 32
    widths, blocks = (32, 64, 128, 256), (2, 3, 4, 6)
    for c, d, number in zip((32, *widths), widths, blocks, strict=False):
        expected += 8 * c * d + 2 * d + number * block(d, d)
    for c, skip, d in ((256, 128, 256), (256, 64, 128), (128, 32, 96), (96, 32, 96)):
        expected += 8 * c * d + 2 * d + block(d + skip, d) + block(d, d)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_autocast():
    layer, x = SubmanifoldConvolution(3, 4), tensor()
    x = SparseTensor(x.features.float().requires_grad_(), x.sites)
    expected = layer(x).features
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x).features
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.float().sum().backward()
    assert x.features.grad.dtype == layer.weight.grad.dtype == torch.float32
    assert x.features.grad.isfinite().all() and layer.weight.grad.any()


def test_sums_over_many_blocks_are_not_in_low_precision(monkeypatch):
    monkeypatch.setattr(engine, "_CPU_BLOCK", 1)
    sites = tensor(number=3000).sites
    pairs = sites.neighbours(3)
    generator = torch.Generator().manual_seed(0)
    # All products are positive, so that the sums grow.
    features = torch.rand(len(sites), 4, generator=generator, requires_grad=True)
    weight = torch.rand(4, 27, 4, generator=generator, requires_grad=True)

    def compute(*inputs):
        result = sparse_convolution(*inputs, pairs)
        return [result, *torch.autograd.grad(result.double().sum(), (features, weight))]

    exact = compute(features.double(), weight.double())
    assert len(pairs.blocks(features.device)) > 100
    with torch.autocast("cpu", torch.bfloat16):
        found = compute(features, weight)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=0.01, atol=0)


def test_sites_without_a_pair_are_zero():
    nothing = torch.zeros(0, dtype=torch.int64)
    pairs = SitePairs([nothing], [nothing], 3, 2)
    features = torch.randn(3, 2, requires_grad=True)
    weight = torch.randn(4, 1, 2, requires_grad=True)
    found = sparse_convolution(features, weight, pairs)
    assert found.shape == (2, 4) and not found.any()
    found.sum().backward()
    assert not features.grad.any() and not weight.grad.any()


def test_what_is_refused():
    nothing = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least one voxel"):
        Sites.of_voxels(nothing, nothing.reshape(0, 3))
    far = torch.tensor([[0, 0, 0], [2**40, 2**40, 2**40]])
    with pytest.raises(ValueError, match="fewer than 2.63 voxels"):
        Sites.of_voxels(torch.zeros(2, dtype=torch.int64), far)
    with pytest.raises(ValueError, match="an odd kernel_size, got 2"):
        tensor().sites.neighbours(2)
    for channels, blocks in (((8,), (1,)), ((8, 8), (1,)), ((), ())):
        with pytest.raises(ValueError, match="an even number of stages"):
            SparseUNet(3, channels=channels, blocks=blocks)
