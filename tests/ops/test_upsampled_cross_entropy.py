"""The fused function against PyTorch's interpolation and cross-entropy, one after the other."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sar.ops import upsampled_cross_entropy as module
from sar.ops import upsampled_cross_entropy_pytorch as pytorch
from sar.ops.backend import choose_backend
from sar.ops.upsampled_cross_entropy import upsampled_cross_entropy

from ..autograd import LargestTensor

IGNORE = 255
# (N, K, h, w), stride, (H, W)
SIZES = [
    ((2, 5, 4, 6), 4, (16, 24)),
    ((2, 5, 4, 6), 4, (13, 22)),  # cropped
    ((3, 3, 6, 6), 4, (5, 2)),  # by more than a row of logits, and narrower than a stride
    ((1, 3, 5, 3), 3, (13, 8)),  # an odd stride
    ((2, 7, 1, 1), 4, (3, 2)),  # no neighbours
    ((1, 2, 3, 4), 1, (3, 4)),
    ((1, 4, 2, 3), 16, (17, 33)),
    ((1, 1, 3, 3), 5, (15, 11)),  # a single class
]


def plain(logits, labels, stride, ignore_value=IGNORE):
    height, width = labels.shape[-2:]
    logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    return F.cross_entropy(
        logits[..., :height, :width], labels, ignore_index=ignore_value, reduction="none"
    )


def draw(shape, size, dtype=torch.float64, device="cpu"):
    """Logits, labels of which a fifth is ignored, and a gradient of the losses."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(shape, generator=generator, dtype=dtype)
    labels = torch.randint(shape[1], (shape[0], *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    gradient = torch.randn(labels.shape, generator=generator, dtype=dtype)
    return logits.to(device).requires_grad_(), labels.to(device), gradient.to(device)


def assert_equal_to_plain(logits, labels, gradient, stride, **rounding):
    found = upsampled_cross_entropy(logits, labels, stride, IGNORE)
    expected = plain(logits, labels, stride)
    torch.testing.assert_close(found, expected, **rounding)
    (found,) = torch.autograd.grad(found, logits, gradient)
    (expected,) = torch.autograd.grad(expected, logits, gradient)
    torch.testing.assert_close(found, expected, **rounding)


@pytest.mark.parametrize("tile", [1, 40, 2**19])  # a row; some rows, or images; all at once
@pytest.mark.parametrize("shape, stride, size", SIZES)
def test_losses_and_gradient_are_those_of_the_plain_way(shape, stride, size, tile, monkeypatch):
    monkeypatch.setattr(pytorch, "_CPU_TILE", tile)
    assert_equal_to_plain(*draw(shape, size), stride, rtol=1e-12, atol=1e-13)


def test_float32_to_rounding():
    assert_equal_to_plain(*draw((2, 19, 16, 32), (64, 128), torch.float32), 4, rtol=2e-6, atol=2e-6)


def test_gradcheck():
    logits, labels, _ = draw((2, 3, 3, 2), (10, 8))
    assert torch.autograd.gradcheck(
        lambda logits: upsampled_cross_entropy(logits, labels, 4, IGNORE), logits
    )


def test_logits_with_channels_last():
    logits, labels, gradient = draw((2, 5, 4, 6), (16, 24))
    logits = logits.detach().to(memory_format=torch.channels_last).requires_grad_()
    assert_equal_to_plain(logits, labels, gradient, 4, rtol=1e-12, atol=1e-13)


def test_large_logits_do_not_overflow():
    logits, labels, gradient = draw((1, 4, 3, 5), (12, 20), torch.float32)
    logits = (3e4 * logits.detach()).requires_grad_()
    assert_equal_to_plain(logits, labels, gradient, 4, rtol=2e-6, atol=0.1)
    assert upsampled_cross_entropy(logits, labels, 4, IGNORE).max() > 1e4


def test_ignored_pixels_have_no_loss_and_no_gradient():
    logits, labels, _ = draw((1, 3, 4, 4), (16, 16))
    labels.fill_(IGNORE)
    losses = upsampled_cross_entropy(logits, labels, 4, IGNORE)
    # Not even with the gradient of a mean over no pixel.
    (gradient,) = torch.autograd.grad(losses, logits, torch.full_like(losses, float("nan")))
    assert (losses == 0).all() and (gradient == 0).all()
    labels[0, 5, 5] = 2
    assert upsampled_cross_entropy(logits, labels, 4, IGNORE).count_nonzero() == 1


@pytest.mark.parametrize("ignore_value", [-1, 1])
def test_any_value_can_be_ignored(ignore_value):
    logits, labels, _ = draw((1, 3, 4, 4), (16, 16))
    labels[labels == IGNORE] = ignore_value
    found = upsampled_cross_entropy(logits, labels, 4, ignore_value)
    torch.testing.assert_close(found, plain(logits, labels, 4, ignore_value))


def test_logits_that_are_not_finite_are_seen():
    logits, labels, _ = draw((1, 3, 4, 4), (16, 16))
    with torch.no_grad():
        logits[0, 1, 2, 2] = float("nan")
    assert upsampled_cross_entropy(logits, labels, 4, IGNORE).isnan().any()


def test_a_label_that_is_no_class_is_an_error():
    logits, labels, _ = draw((1, 3, 4, 4), (16, 16))
    labels[0, 3, 3] = 3
    with pytest.raises(IndexError, match="out of bounds"):
        upsampled_cross_entropy(logits, labels, 4, IGNORE)


@pytest.mark.parametrize("size", [(1, 17, 16), (1, 16, 17), (2, 16, 16)])
def test_labels_that_do_not_go_with_the_logits(size):
    with pytest.raises(ValueError, match="labels of shape .* at stride 4"):
        upsampled_cross_entropy(torch.zeros(1, 3, 4, 4), torch.zeros(size).long(), 4, IGNORE)


def test_the_upsampled_logits_are_nowhere_in_memory():
    logits, labels, gradient = draw((2, 64, 64, 64), (256, 256), torch.float32)
    upsampled = 64 * labels.numel()
    for function, most in ((plain, 1.0), (upsampled_cross_entropy, 1 / 16)):
        with LargestTensor() as largest:
            losses = function(logits, labels, 4, IGNORE)
            torch.autograd.grad(losses, logits, gradient)
        assert largest.numbers == pytest.approx(most * upsampled, rel=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("triton", [False, True])
@pytest.mark.parametrize("shape, stride, size", [*SIZES, ((2, 150, 40, 40), 4, (160, 157))])
def test_on_a_gpu(shape, stride, size, triton, monkeypatch):
    if not triton:
        monkeypatch.setattr(module, "choose_backend", lambda name, device: pytorch)
    elif not find_spec("triton"):
        pytest.skip("Triton is not installed")
    else:
        assert choose_backend(module.__name__, torch.device("cuda:0")) is not pytorch
    inputs = draw(shape, size, torch.float32, "cuda")
    assert_equal_to_plain(*inputs, stride, rtol=1e-5, atol=1e-5)


INTERPRETED = """
import torch
from sar.ops import upsampled_cross_entropy_triton as kernels
from tests.ops.test_upsampled_cross_entropy import IGNORE, draw, plain

for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 5e-6)):
    # Several blocks of pixels, classes and columns; then odd strides, crops and borders.
    for shape, stride, size in (
        ((2, 34, 2, 36), 4, (7, 141)),
        ((1, 3, 5, 3), 3, (13, 8)),
        ((2, 2, 1, 1), 4, (3, 2)),
        ((1, 3, 3, 2), 1, (3, 2)),
        ((1, 3, 2, 3), 8, (9, 20)),
    ):
        logits, labels, gradient = draw(shape, size, dtype)
        wanted = plain(logits, labels, stride)
        (wanted_gradient,) = torch.autograd.grad(wanted, logits, gradient)
        logits = logits.detach()
        losses, log_sums = kernels.forward(logits, labels, stride, IGNORE)
        found_gradient = kernels.backward(logits, labels, log_sums, gradient, stride, IGNORE)
        rounding = dict(rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(losses, wanted.detach(), **rounding)
        torch.testing.assert_close(found_gradient, wanted_gradient, **rounding)

# The kernel cannot report an unknown label, so the loss shows it.
labels[0, 1, 1] = shape[1]
losses, _ = kernels.forward(logits, labels, stride, IGNORE)
assert losses.isinf().sum() == 1 and losses[0, 1, 1] == float("inf")
kernels.try_out(torch.device("cpu"))
print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")
def test_the_kernels_in_tritons_interpreter():
    # It is chosen for a whole process, when Triton is imported.
    paths = [str(Path(__file__).parents[2]), *sys.path]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True
    )
    assert result.stdout == "equal\n", result.stderr
