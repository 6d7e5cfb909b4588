"""The Triton kernels against a float64 computation: on a GPU where there is one, else in Triton's
interpreter, which has to be chosen before Triton is imported."""

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sar.ops import squared_distance, squared_distance_pytorch
from sar.ops.squared_distance import mean_squared_distance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PRECISION = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}

runs_kernels = pytest.mark.skipif(
    not (find_spec("triton") and (DEVICE == "cuda" or IS_INTERPRETED)),
    reason="no Triton, or neither a GPU nor its interpreter",
)


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda", reason="the kernels run on the GPU")
@pytest.mark.skipif(not find_spec("triton"), reason="no Triton")
@pytest.mark.skipif(IS_INTERPRETED, reason="runs in the interpreter already")
def test_kernels_in_the_interpreter():
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout


@pytest.fixture
def triton_everywhere(monkeypatch):
    """The kernels compute on this machine's device, the interpreter's being the CPU."""
    from sar.ops import squared_distance_triton

    monkeypatch.setattr(squared_distance, "_backend", lambda *_: squared_distance_triton)


def batch(shape, num_classes, dtype, layout="contiguous"):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if layout == "channels_last":
        embeddings = embeddings.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        embeddings = embeddings.repeat_interleave(2, dim=-1)[..., ::2]
    labels = torch.randint(num_classes, (shape[0], *shape[2:]), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
    anchors = torch.randn(num_classes, shape[1], generator=generator, dtype=torch.float64)
    embeddings = embeddings.to(DEVICE).requires_grad_()
    return embeddings, labels.to(DEVICE), anchors.to(DEVICE, torch.float32)


def exact_value_and_gradient(embeddings, labels, anchors, weight, over="pixels"):
    embeddings = embeddings.detach().double().requires_grad_()
    classes = labels[labels != 255]
    targets = anchors.double()[classes]
    means = (embeddings.movedim(1, -1)[labels != 255] - targets).square().mean(dim=1)
    if over == "classes":
        means = torch.stack([means[classes == k].mean() for k in classes.unique()])
    value = weight * means.mean()
    return value.detach(), *torch.autograd.grad(value, embeddings)


SHAPES = [(2, 5, 3, 7), (1, 33, 9, 15), (3, 130, 1, 129), (2, 40, 70), (150, 24)]


@runs_kernels
@pytest.mark.parametrize("over", ["pixels", "classes"])
@pytest.mark.parametrize(
    "shape, dtype, layout",
    [
        *itertools.product(SHAPES, [torch.float32], ["contiguous"]),
        *itertools.product(SHAPES[1:2], PRECISION, ["contiguous", "channels_last", "strided"]),
    ],
    ids=str,
)
def test_kernels_equal_the_plain_expression(triton_everywhere, shape, dtype, layout, over):
    embeddings, labels, anchors = batch(shape, 11, dtype, layout)
    value = mean_squared_distance(embeddings, labels, anchors, 255, 0.1, over)
    wanted_value, wanted = exact_value_and_gradient(embeddings, labels, anchors, 0.1, over)
    assert value.dtype == anchors.dtype
    assert abs(value / wanted_value - 1) < 1e-5
    for grad_output in (1.0, 0.0, 8192.0):
        (found,) = torch.autograd.grad(value * grad_output, embeddings, retain_graph=True)
        assert found.dtype == dtype and found.shape == embeddings.shape
        error = (found.double() - grad_output * wanted).abs().max()
        assert error <= PRECISION[dtype] * grad_output * wanted.abs().max()


@runs_kernels
def test_first_gradient_is_scaled(triton_everywhere):
    embeddings, labels, anchors = batch(SHAPES[1], 11, torch.float32)
    _, wanted = exact_value_and_gradient(embeddings, labels, anchors, 1.0)
    for grad_output in (3.0, 0.0):
        value = mean_squared_distance(embeddings, labels, anchors, 255)
        (found,) = torch.autograd.grad(value * grad_output, embeddings)
        torch.testing.assert_close(found.double(), grad_output * wanted, rtol=1e-5, atol=1e-9)


@runs_kernels
def test_no_valid_pixel_gives_zero_even_of_infinite_embeddings(triton_everywhere):
    embeddings, labels, anchors = batch((2, 3, 5), 4, torch.float32)
    embeddings = embeddings.detach().fill_(torch.inf).requires_grad_()
    value = mean_squared_distance(embeddings, torch.full_like(labels, 255), anchors, 255)
    (gradient,) = torch.autograd.grad(value, embeddings)
    assert value == 0 and (gradient == 0).all()


@runs_kernels
@pytest.mark.parametrize("unknown", [-1, 4, 254, 1 << 40])
def test_unknown_label_gives_nan(triton_everywhere, unknown):
    embeddings, labels, anchors = batch((2, 3, 5), 4, torch.float32)
    labels[1, 2] = unknown
    assert mean_squared_distance(embeddings, labels, anchors, 255).isnan()


@runs_kernels
def test_counts_of_more_labels_than_blocks_hold(triton_everywhere):
    from sar.ops.squared_distance_triton import count_valid

    labels = torch.randint(4, (3, 50_001), device=DEVICE)
    count = count_valid(labels, 2)
    assert count == (labels != 2).sum()
    # Of processes whose backends differ, counts are added up.
    plain = squared_distance_pytorch.count_valid(labels, 2)
    assert count.shape == plain.shape and count.dtype == plain.dtype


@runs_kernels
def test_kernels_are_launched_on_the_device_of_their_tensors(triton_everywhere, monkeypatch):
    embeddings, labels, anchors = batch((2, 5, 3, 7), 4, torch.float32)
    guarded, device_of = [], torch.cuda.device_of
    monkeypatch.setattr(
        torch.cuda, "device_of", lambda tensor: guarded.append(tensor) or device_of(tensor)
    )
    mean_squared_distance(embeddings, labels, anchors, 255).backward()
    assert [tensor.numel() for tensor in guarded] == [
        labels.numel(),
        embeddings.numel(),
        embeddings.numel(),
    ]


@runs_kernels
def test_the_trial_launches(triton_everywhere):
    from sar.ops import squared_distance_triton

    squared_distance_triton.try_out(torch.device(DEVICE))


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
def test_the_host_waits_for_nothing():
    embeddings, labels, anchors = batch((2, 40, 9, 15), 11, torch.float32)
    mean_squared_distance(embeddings, labels, anchors, 255).backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        mean_squared_distance(embeddings, labels, anchors, 255).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
