"""CeCo against an independent float64 computation, in one process and in two."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sar.regularizers import CenterCollapseRegularizer, simplex_etf

from ..autograd import graph
from ..distributed import run_processes

K, C, D = 6, 16, 24
FREQUENCIES = [100, 50, 20, 5, 1, 0]
FORMS = [D, None]  # projected, direct


def batch(seed=0, shape=(2, C, 8, 8), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(shape, generator=generator, dtype=dtype) + 0.5
    labels = torch.randint(K, (shape[0], *shape[2:]), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return embeddings, labels


def build(dtype=torch.float64, **settings):
    """A regularizer without dropout, whose numbers can be compared."""
    torch.manual_seed(1)
    settings = {"projection_dim": D, "dropout": 0.0} | settings
    return CenterCollapseRegularizer(K, C, **settings).to(dtype)


def loss_and_gradient(regularizer, embeddings, labels):
    embeddings = embeddings.clone().requires_grad_()
    loss = regularizer(embeddings, labels)["loss_ceco"]
    loss.backward()
    return loss.detach(), embeddings.grad


def independent_loss(state, embeddings, labels, *, frequencies=None, weight=0.4, scale=5.0):
    """The five steps written out: a list of pixels, explicit batch norm, a loop over classes."""
    rows = embeddings.movedim(1, -1).reshape(-1, C)
    labels = labels.flatten()
    is_projected = "pixel_projection.weight" in state
    if is_projected:
        rows = rows @ state["pixel_projection.weight"].T
        rows = (rows - rows.mean(0)) / torch.sqrt(((rows - rows.mean(0)) ** 2).mean(0) + 1e-5)
    terms = []
    for k in sorted(set(labels.tolist()) - {255}):
        z = rows[labels == k].mean(0)
        if is_projected:
            h = state["centre_projection.weight"] @ z + state["centre_projection.bias"]
            h = torch.maximum(h, torch.zeros_like(h))
            z = h / (h**2).sum().sqrt()
        logits = scale * (state["etf"] @ z)
        if frequencies is not None:
            shares = torch.tensor(frequencies, dtype=torch.float64) / sum(frequencies)
            logits = logits + torch.log(shares + 1e-12)
        terms.append(-torch.log(torch.exp(logits)[k] / torch.exp(logits).sum()))
    return weight * sum(terms) / len(terms)


@pytest.mark.parametrize("projection_dim", FORMS)
@pytest.mark.parametrize("frequencies", [None, FREQUENCIES])
@pytest.mark.parametrize("absent", [(), (2,), (0, 3, 5)])
def test_value_and_gradient_equal_the_independent_computation(projection_dim, frequencies, absent):
    regularizer = build(projection_dim=projection_dim, class_frequencies=frequencies)
    embeddings, labels = batch()
    for k in absent:
        labels[labels == k] = 1
    value, gradient = loss_and_gradient(regularizer, embeddings, labels)

    other = embeddings.clone().requires_grad_()
    expected = independent_loss(regularizer.state_dict(), other, labels, frequencies=frequencies)
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient, other.grad, rtol=1e-8, atol=1e-14)
    assert gradient.abs().sum() > 0


def test_weight_and_scale():
    embeddings, labels = batch()
    regularizer = build(weight=0.8, scale=2.0)
    expected = independent_loss(regularizer.state_dict(), embeddings, labels, weight=0.8, scale=2.0)
    torch.testing.assert_close(regularizer(embeddings, labels)["loss_ceco"], expected)


@pytest.mark.parametrize("projection_dim", FORMS)
def test_a_batch_with_no_valid_pixel_is_0_with_gradient_0(projection_dim):
    regularizer = build(projection_dim=projection_dim)
    embeddings, labels = batch()
    value, gradient = loss_and_gradient(regularizer, embeddings, torch.full_like(labels, 255))
    assert value == 0 and (gradient == 0).all()


def test_a_single_valid_pixel_stays_finite():
    embeddings, labels = batch()
    labels[...] = 255
    labels[0, 0, 0] = 3
    value, gradient = loss_and_gradient(build(), embeddings, labels)
    assert value.isfinite() and gradient.isfinite().all()


def test_ignored_pixels_change_nothing_in_the_direct_form():
    regularizer = build(projection_dim=None)
    embeddings, labels = batch()
    disturbed = torch.where((labels == 255)[:, None], torch.nan, embeddings)
    value, gradient = loss_and_gradient(regularizer, embeddings, labels)
    other_value, other_gradient = loss_and_gradient(regularizer, disturbed, labels)
    assert value == other_value and torch.equal(gradient, other_gradient)
    assert (gradient.movedim(1, -1)[labels == 255] == 0).all()


def test_ignored_pixels_change_only_the_statistics_in_the_projected_form():
    regularizer = build()
    embeddings, labels = batch()
    # Ignored pixels of the same sum and the same spread, in another order
    ignored = (labels == 255).flatten().nonzero().flatten()
    rows = embeddings.movedim(1, -1).reshape(-1, C).clone()
    rows[ignored] = rows[ignored.flip(0)]
    disturbed = rows.reshape(2, 8, 8, C).movedim(-1, 1)
    torch.testing.assert_close(
        regularizer(disturbed, labels)["loss_ceco"], regularizer(embeddings, labels)["loss_ceco"]
    )


def test_another_ignore_value():
    embeddings, labels = batch()
    expected = build()(embeddings, labels)
    labels[labels == 255] = 65535
    assert build(ignore_value=65535)(embeddings, labels) == expected


def test_unknown_class_id_is_an_error():
    embeddings, labels = batch()
    labels[0, 0, 0] = K
    with pytest.raises((IndexError, RuntimeError)):
        build()(embeddings, labels)


@pytest.mark.parametrize("projection_dim", FORMS)
def test_maps_points_and_samples_agree(projection_dim):
    regularizer = build(projection_dim=projection_dim)
    embeddings, labels = batch()
    as_map, map_gradient = loss_and_gradient(regularizer, embeddings, labels)
    as_points, gradient = loss_and_gradient(regularizer, embeddings.flatten(2), labels.flatten(1))
    torch.testing.assert_close(as_points, as_map)
    torch.testing.assert_close(gradient, map_gradient.flatten(2))
    samples = embeddings.movedim(1, -1).reshape(-1, C)
    as_samples, gradient = loss_and_gradient(regularizer, samples, labels.flatten())
    torch.testing.assert_close(as_samples, as_map)
    torch.testing.assert_close(gradient, map_gradient.movedim(1, -1).reshape(-1, C))


def test_memory_formats_agree():
    regularizer, (embeddings, labels) = build(), batch()
    expected = regularizer(embeddings, labels)["loss_ceco"]
    channels_last = embeddings.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(regularizer(channels_last, labels)["loss_ceco"], expected)


@pytest.mark.parametrize("factor", [4, 0.5])
def test_labels_of_another_size_are_brought_over_by_nearest(factor):
    regularizer, (embeddings, _) = build(), batch()
    size = int(8 * factor)
    labels = torch.randint(K, (2, size, size))
    index = (torch.arange(8) * factor).long()  # the upper left pixel of each cell
    expected = regularizer(embeddings, labels[:, index][:, :, index])
    assert regularizer(embeddings, labels) == expected


@pytest.mark.parametrize("projection_dim", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(projection_dim, dtype):
    regularizer = build(torch.float32, projection_dim=projection_dim)
    embeddings, labels = batch(dtype=torch.float32)
    embeddings = embeddings.to(dtype)
    expected, _ = loss_and_gradient(regularizer, embeddings.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = loss_and_gradient(regularizer, embeddings, labels)
    assert value.dtype == torch.float32 and value == expected
    assert gradient.dtype == dtype and gradient.isfinite().all()


def test_dropout_falls_on_the_projected_centres_in_training_only():
    regularizer = build(dropout=0.5)
    embeddings, labels = batch()
    expected = build()(embeddings, labels)
    assert regularizer.eval()(embeddings, labels) == expected
    regularizer.train()
    values = [float(regularizer(embeddings, labels)["loss_ceco"]) for _ in range(200)]
    assert len(set(values)) == 200
    direct = build(projection_dim=None, dropout=0.5)
    assert direct(embeddings, labels) == direct(embeddings, labels)


def test_everything_is_frozen_and_in_the_checkpoint():
    regularizer, (embeddings, labels) = build(), batch()
    before = copy.deepcopy(regularizer.state_dict())
    assert set(before) == {
        "pixel_projection.weight",
        "centre_projection.weight",
        "centre_projection.bias",
        "etf",
    }
    assert not any(parameter.requires_grad for parameter in regularizer.parameters())
    loss_and_gradient(regularizer, embeddings, labels)
    assert all(parameter.grad is None for parameter in regularizer.parameters())
    for name, value in regularizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_state_dict_round_trip():
    regularizer, (embeddings, labels) = build(), batch()
    torch.manual_seed(7)
    other = CenterCollapseRegularizer(K, C, projection_dim=D, dropout=0.0).double()
    assert other(embeddings, labels) != regularizer(embeddings, labels)
    other.load_state_dict(regularizer.state_dict())
    assert other(embeddings, labels) == regularizer(embeddings, labels)


def test_the_random_numbers_are_drawn_in_the_order_of_the_steps():
    torch.manual_seed(3)
    regularizer = CenterCollapseRegularizer(K, C, projection_dim=D)
    torch.manual_seed(3)
    convolution, linear = nn.Conv2d(C, 128, 1, bias=False), nn.Linear(128, D)
    assert torch.equal(regularizer.pixel_projection.weight, convolution.weight[:, :, 0, 0])
    assert torch.equal(regularizer.centre_projection.weight, linear.weight)
    assert torch.equal(regularizer.centre_projection.bias, linear.bias)
    assert torch.equal(regularizer.etf, simplex_etf(K, D).float())


def test_the_graph_is_the_same_whatever_the_labels():
    regularizer, (embeddings, labels) = build(), batch()
    embeddings.requires_grad_()
    some = regularizer(embeddings, labels)["loss_ceco"]
    none = regularizer(embeddings, torch.full_like(labels, 255))["loss_ceco"]
    assert graph(some) == graph(none)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="host synchronisation needs a GPU")
@pytest.mark.parametrize("projection_dim", FORMS)
def test_no_host_synchronisation(projection_dim):
    regularizer = build(torch.float32, projection_dim=projection_dim, dropout=0.1).cuda()
    embeddings, labels = (tensor.cuda() for tensor in batch(dtype=torch.float32))
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_and_gradient(regularizer, embeddings, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("projection_dim", FORMS)
def test_descent_draws_the_centres_to_the_etf(projection_dim):
    regularizer, (embeddings, labels) = build(projection_dim=projection_dim), batch()
    embeddings.requires_grad_()
    optimizer = torch.optim.Adam([embeddings], lr=0.05)
    values = []
    for _ in range(100):
        loss = regularizer(embeddings, labels)["loss_ceco"]
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"num_classes": D + 1}, f"num_classes={D + 1} .* projection_dim={D}"),
        ({"num_classes": C + 1, "projection_dim": None}, f"num_classes={C + 1} .* embed_dim={C}"),
        ({"class_frequencies": [1, 2]}, r"class_frequencies: expected 6 .* found shape \(2,\)"),
        ({"class_frequencies": [1, 1, 1, -2, 1, 1]}, "class_frequencies: .* -2.0 for class id 3"),
        ({"class_frequencies": [1, float("nan")] * 3}, "class_frequencies: .* nan for class id 1"),
        ({"class_frequencies": [float("inf")] * 6}, "class_frequencies: .* inf for class id 0"),
        ({"class_frequencies": [0] * 6}, "class_frequencies: .* above 0, found only zeros"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        CenterCollapseRegularizer(
            **{"num_classes": K, "embed_dim": C, "projection_dim": D} | settings
        )


def test_shapes_that_do_not_go_together():
    regularizer, (embeddings, labels) = build(), batch()
    with pytest.raises(ValueError, match="labels of shape"):
        regularizer(embeddings, labels[0])
    with pytest.raises(ValueError, match="16 channels"):
        regularizer(embeddings[:, :8], labels)


class Network(nn.Module):
    """A trained layer, and the regularizer of its output."""

    def __init__(self, projection_dim):
        super().__init__()
        self.layer = nn.Conv2d(3, C, 1).double()
        self.regularizer = CenterCollapseRegularizer(
            K, C, projection_dim=projection_dim, class_frequencies=FREQUENCIES, dropout=0.0
        ).double()

    def forward(self, images, labels):
        return self.regularizer(self.layer(images), labels)["loss_ceco"]


def distributed_cases():
    """Name -> images (4, 3, 8, 8) and labels, of which each of two processes gets one half."""
    images, labels = batch(shape=(4, 3, 8, 8))
    seen_by_one = torch.where(labels == 4, 255, labels)
    seen_by_one[:2, :, :4] = 4
    one_is_empty = labels.clone()
    one_is_empty[2:] = 255
    return {
        "halves": (images, labels),
        "a class that one process sees": (images, seen_by_one),
        "a process with no valid pixel": (images, one_is_empty),
        "no valid pixel at all": (images, torch.full_like(labels, 255)),
    }


def train_on_half(rank, folder):
    results = {}
    half = slice(2 * rank, 2 * rank + 2)
    for projection_dim in FORMS:
        torch.manual_seed(rank)  # DistributedDataParallel sees to it that they start alike
        model = DistributedDataParallel(Network(projection_dim))
        for name, (images, labels) in distributed_cases().items():
            model.zero_grad()
            loss = model(images[half], labels[half])
            loss.backward()
            gradients = {key: p.grad.clone() for key, p in model.module.layer.named_parameters()}
            results[projection_dim, name] = (loss.detach(), gradients)
        results[projection_dim] = model.module.state_dict()
    torch.save(results, folder / f"{rank}.pth")


def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    run_processes(train_on_half, 2, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    for projection_dim in FORMS:
        model = Network(projection_dim)
        model.load_state_dict(results[0][projection_dim])
        for name, (images, labels) in distributed_cases().items():
            model.zero_grad()
            loss = model(images, labels)
            loss.backward()
            assert (loss == 0) == (name == "no valid pixel at all")
            for rank in range(2):
                found_loss, gradients = results[rank][projection_dim, name]
                torch.testing.assert_close(found_loss, loss.detach(), rtol=1e-12, atol=0)
                for key, parameter in model.layer.named_parameters():
                    torch.testing.assert_close(
                        gradients[key], parameter.grad, rtol=1e-9, atol=1e-14, msg=f"{name} {key}"
                    )
