"""The pull of SAR against a plain expression in float64, in PyTorch on the CPU; its Triton kernels
are tested in test_squared_distance_triton.py."""

import pytest
import torch

from sar.ops import squared_distance_pytorch
from sar.ops.squared_distance import mean_squared_distance

K = 4


def batch(shape=(2, 5, 3, 7), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(K, (shape[0], *shape[2:]), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = 9
    anchors = torch.randn(K, shape[1], generator=generator, dtype=torch.float64)
    return embeddings.requires_grad_(), labels, anchors


def plain_value_and_gradient(embeddings, labels, anchors, weight=1.0, over="pixels"):
    embeddings = embeddings.detach().double().requires_grad_()
    means = embeddings.movedim(1, -1)[labels != 9]
    targets = anchors.double()[labels[labels != 9]]
    means = (means - targets).square().mean(dim=1)
    if over == "classes":
        present = labels[labels != 9].unique()
        means = torch.stack([means[labels[labels != 9] == k].mean() for k in present])
    value = weight * means.mean()
    return value.detach(), *torch.autograd.grad(value, embeddings)


@pytest.fixture(params=[1, 16, 1 << 17])
def tile(request, monkeypatch):
    monkeypatch.setattr(squared_distance_pytorch, "CPU_TILE", request.param)


@pytest.mark.parametrize("over", ["pixels", "classes"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (2, 5, 40), (30, 5)], ids=str)
def test_equals_the_plain_expression_with_its_gradient(tile, shape, over):
    embeddings, labels, anchors = batch(shape)
    labels[labels == 2] = 0  # a class that is absent, and one of twice the pixels
    value = mean_squared_distance(embeddings, labels, anchors, 9, weight=0.1, over=over)
    wanted_value, wanted = plain_value_and_gradient(embeddings, labels, anchors, 0.1, over)
    torch.testing.assert_close(value.detach(), wanted_value, rtol=1e-12, atol=0)
    (found,) = torch.autograd.grad(3 * value, embeddings)
    torch.testing.assert_close(found, 3 * wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (6, 3)], ids=str)
def test_gradcheck(shape):
    embeddings, labels, anchors = batch(shape)
    assert torch.autograd.gradcheck(
        lambda e: mean_squared_distance(e, labels, anchors, 9), (embeddings,)
    )


LAYOUTS = {
    "channels_last": lambda e: e.contiguous(memory_format=torch.channels_last),
    "channels in the middle": lambda e: e.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3),
    "pixels turned": lambda e: e.transpose(2, 3).contiguous().transpose(2, 3),
    "every other pixel": lambda e: e.repeat_interleave(2, dim=3)[..., ::2],
    "some channels": lambda e: torch.cat([e, e], dim=1)[:, : e.shape[1]],
}


@pytest.mark.parametrize("over", ["pixels", "classes"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts_agree(tile, layout, over):
    embeddings, labels, anchors = batch()
    laid_out = LAYOUTS[layout](embeddings.detach()).requires_grad_()
    assert not laid_out.is_contiguous()
    value = mean_squared_distance(laid_out, labels, anchors, 9, over=over)
    (found,) = torch.autograd.grad(value, laid_out)
    wanted_value, wanted = plain_value_and_gradient(embeddings, labels, anchors, over=over)
    torch.testing.assert_close(value.detach(), wanted_value, rtol=1e-12, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    if layout == "channels_last":
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype, precision", [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_half_precision_is_computed_in_float32(tile, dtype, precision):
    embeddings, labels, anchors = batch((2, 70, 30, 30), dtype)
    value = mean_squared_distance(embeddings, labels, anchors.float(), 9)
    wanted_value, wanted = plain_value_and_gradient(embeddings, labels, anchors)
    assert value.dtype == torch.float32 and abs(value / wanted_value - 1) < 1e-5
    # Without the scale, most of a float16 gradient would be lost: 2 / (C * pixels) = 2e-5.
    scale = 65536.0
    (found,) = torch.autograd.grad(value * scale, embeddings)
    assert found.dtype == dtype
    assert (found.double() - scale * wanted).abs().max() < precision * scale * wanted.abs().max()
    assert (found != 0)[wanted != 0].double().mean() > 0.99


def test_a_graph_may_be_gone_through_twice():
    embeddings, labels, anchors = batch()
    value = mean_squared_distance(embeddings, labels, anchors, 9)
    _, wanted = plain_value_and_gradient(embeddings, labels, anchors)
    gradients = [
        torch.autograd.grad(value, embeddings, grad_output, retain_graph=True)[0]
        for grad_output in torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    ]
    for found, factor in zip(gradients, [2, 1, 0], strict=True):
        torch.testing.assert_close(found, factor * wanted, rtol=1e-12, atol=0)


def test_anchors_may_move_before_the_backward_pass():
    embeddings, labels, anchors = batch(dtype=torch.float16)
    anchors = anchors.float()
    _, wanted = plain_value_and_gradient(embeddings, labels, anchors)
    value = mean_squared_distance(embeddings, labels, anchors, 9)
    anchors.zero_()
    (found,) = torch.autograd.grad(value, embeddings)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-2, atol=1e-4)


def test_autograd_adds_the_classifiers_gradient_in_place(monkeypatch):
    places = []
    squared_distance = squared_distance_pytorch.squared_distance

    def watched(vectors, labels, anchors, counts, gradient, **others):
        places.append(gradient.data_ptr())
        return squared_distance(vectors, labels, anchors, counts, gradient, **others)

    monkeypatch.setattr(squared_distance_pytorch, "squared_distance", watched)
    inputs, labels, anchors = batch()
    embeddings = inputs.relu()
    embeddings.register_hook(lambda gradient: places.append(gradient.data_ptr()))
    logits = torch.nn.Conv2d(5, K, 1, dtype=torch.float64)(embeddings)
    pull = mean_squared_distance(embeddings, labels, anchors, 9)
    (logits.sum() + pull).backward()
    assert len(places) == 2 and places[0] == places[1]


def test_float32_sums_over_many_pixels_keep_their_precision():
    embeddings, labels, anchors = batch((1, 32, 1 << 16), torch.float32)
    exact, _ = plain_value_and_gradient(embeddings, labels, anchors)
    found = mean_squared_distance(embeddings, labels, anchors.float(), 9)
    assert abs(found.item() / exact.item() - 1) < 1e-6


def test_over_classes_a_rare_one_is_pulled_as_much_as_a_frequent_one():
    labels = torch.tensor([[0] * 99 + [1]])
    embeddings = torch.zeros(1, 2, 100, dtype=torch.float64, requires_grad=True)
    anchors = torch.ones(2, 2, dtype=torch.float64)
    sums = {}
    for over in ("pixels", "classes"):
        value = mean_squared_distance(embeddings, labels, anchors, 9, over=over)
        (gradient,) = torch.autograd.grad(value, embeddings)
        sums[over] = gradient[0, :, :99].sum(), gradient[0, :, 99].sum()
    torch.testing.assert_close(sums["pixels"][0], 99 * sums["pixels"][1])
    torch.testing.assert_close(*sums["classes"])


@pytest.mark.parametrize("over", ["pixels", "classes"])
def test_no_valid_pixel_gives_zero(over):
    embeddings, labels, anchors = batch()
    value = mean_squared_distance(embeddings, torch.full_like(labels, 9), anchors, 9, over=over)
    (gradient,) = torch.autograd.grad(value, embeddings)
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("over", ["pixels", "classes"])
@pytest.mark.parametrize("unknown", [-1, K, 255])
@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (30, 5)], ids=str)
def test_unknown_class_id_is_an_error_and_not_a_wrong_number(shape, unknown, over):
    embeddings, labels, anchors = batch(shape)
    labels.view(-1)[0] = unknown
    with pytest.raises((IndexError, RuntimeError)):
        mean_squared_distance(embeddings, labels, anchors, 9, over=over)
