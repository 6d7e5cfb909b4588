"""SAR against an independent float64 computation, and the properties that make it SAR."""

import copy

import pytest
import torch
from torch import nn

from sar.regularizers import SemanticAnchorRegularizer

from ..autograd import graph

K, C = 6, 16


def batch(seed=0, shape=(2, C, 8, 8), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(shape, generator=generator, dtype=dtype)
    labels = torch.randint(K, (shape[0], *shape[2:]), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return embeddings, labels


def build(dtype=torch.float64, **settings):
    torch.manual_seed(1)
    regularizer = SemanticAnchorRegularizer(K, C, **settings).to(dtype)
    return regularizer, nn.Conv2d(C, K, 1).to(dtype)


def open_gate(regularizer, classifier):
    """A classifier that is sure of every anchor."""
    with torch.no_grad():
        projected = regularizer.projector(regularizer.anchors)
        centred = projected - projected.mean(dim=0)
        solution = 50 * torch.linalg.pinv(centred).T
        classifier.weight.copy_(solution.reshape_as(classifier.weight))
        classifier.bias.copy_(-solution @ projected.mean(dim=0))


class IndependentSAR:
    """DESIGN's seven steps written out: explicit batch norm, dense one-hot, loops over classes."""

    def __init__(self, regularizer):
        self.anchors = regularizer.anchors.clone()
        self.parameters = [p.detach().clone().requires_grad_() for p in regularizer.parameters()]
        self.memory = None

    def __call__(self, embeddings, labels, weight, bias):
        w1, b1, g1, s1, w2, b2, g2, s2, w3, g3, s3 = self.parameters
        x = self.anchors
        for w, b, g, s in ((w1, b1, g1, s1), (w2, b2, g2, s2), (w3, 0.0, g3, s3)):
            x = x @ w.T + b
            x = (x - x.mean(0)) / torch.sqrt(((x - x.mean(0)) ** 2).mean(0) + 1e-5) * g + s
            x = torch.maximum(x, torch.zeros_like(x))
        logits = x @ weight[:, :, 0, 0].T + bias
        p = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
        confidences = [p[k, k] for k in range(K)]
        q = [c if c <= 0.9 else torch.ones_like(c) for c in confidences]
        denominator = sum(torch.log(c) for c in q) + 1e-9
        anchor = sum(torch.log(q[k]) / denominator * -torch.log(confidences[k]) for k in range(K))

        is_open = all(int(p[k].argmax()) == k and confidences[k] > 0.8 for k in range(K))
        pull = torch.zeros((), dtype=torch.float64)
        if is_open:
            x = x.detach()
            self.memory = x if self.memory is None else 0.999 * self.memory + 0.001 * x
            valid = labels != 255
            one_hot = torch.zeros(*labels.shape, K, dtype=torch.float64)
            for k in range(K):
                one_hot[..., k] = labels == k
            target = (one_hot @ self.memory).movedim(-1, 1)
            squares = (embeddings - target) ** 2 * valid[:, None]
            pull = 0.1 * squares.sum() / (C * valid.sum())
        return anchor, pull, is_open


def test_every_step_of_a_training_equals_the_independent_computation():
    regularizer, classifier = build()
    independent = IndependentSAR(regularizer)
    weight = classifier.weight.detach().clone().requires_grad_()
    bias = classifier.bias.detach().clone().requires_grad_()
    ours = torch.optim.SGD([*regularizer.parameters(), *classifier.parameters()], lr=0.3)
    theirs = torch.optim.SGD([*independent.parameters, weight, bias], lr=0.3)

    gates, hard = [], []
    for step in range(60):
        embeddings, labels = batch(seed=step)
        mine, other = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
        losses = regularizer(mine, labels, classifier)
        anchor, pull, is_open = independent(other, labels, weight, bias)
        torch.testing.assert_close(losses["loss_sar_anchor"], anchor, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(losses["loss_sar_pull"], pull, rtol=1e-9, atol=1e-12)
        assert bool(regularizer.gate_is_open) == is_open
        if independent.memory is not None:
            torch.testing.assert_close(regularizer.semantic_anchors, independent.memory)
        gates.append(is_open)
        hard.append(anchor.item() == 0)

        for optimizer, loss in ((ours, sum(losses.values())), (theirs, anchor + pull)):
            optimizer.zero_grad()
            loss.backward()
        torch.testing.assert_close(
            mine.grad, torch.zeros_like(mine) if other.grad is None else other.grad
        )
        for parameter, other_parameter in zip(
            [*regularizer.parameters(), classifier.weight, classifier.bias],
            [*independent.parameters, weight, bias],
            strict=True,
        ):
            torch.testing.assert_close(
                parameter.grad, other_parameter.grad, rtol=1e-7, atol=1e-10, check_stride=False
            )
        ours.step()
        theirs.step()
    # The comparison has seen all there is to see.
    assert not gates[0] and gates[-1] and hard[-1] and not hard[0]
    assert any(is_open and not is_hard for is_open, is_hard in zip(gates, hard, strict=True))


def test_the_gradients_reach_what_they_should_and_nothing_else():
    regularizer, classifier = build()
    embeddings, labels = batch()
    embeddings.requires_grad_()

    loss = regularizer(embeddings, labels, classifier)["loss_sar_anchor"]
    loss.backward()
    assert embeddings.grad is None
    assert all(p.grad.abs().sum() > 0 for p in classifier.parameters())
    assert all(p.grad is not None for p in regularizer.parameters())
    assert regularizer.projector[0].weight.grad.abs().sum() > 0

    open_gate(regularizer, classifier)
    for parameter in (*regularizer.parameters(), *classifier.parameters()):
        parameter.grad = None
    loss = regularizer(embeddings, labels, classifier)["loss_sar_pull"]
    loss.backward()
    assert loss.item() > 0
    assert embeddings.grad.abs().sum() > 0
    for parameter in (*regularizer.parameters(), *classifier.parameters()):
        assert parameter.grad is None or parameter.grad.abs().sum() == 0
    assert not regularizer.anchors.requires_grad and not regularizer.semantic_anchors.requires_grad


def test_gate_closed_means_no_pull_and_no_memory():
    regularizer, classifier = build()
    embeddings, labels = batch()
    losses = regularizer(embeddings, labels, classifier)
    assert not regularizer.gate_is_open and not regularizer.gate_has_opened
    assert losses["loss_sar_pull"].item() == 0
    assert regularizer.semantic_anchors.abs().sum() == 0


def test_memory_starts_at_the_first_open_gate_and_then_follows_slowly():
    regularizer, classifier = build(momentum=0.9)
    embeddings, labels = batch()
    open_gate(regularizer, classifier)
    regularizer(embeddings, labels, classifier)
    first = regularizer.semantic_anchors.clone()
    torch.testing.assert_close(first, regularizer.projector(regularizer.anchors).detach())

    with torch.no_grad():
        regularizer.projector[-2].bias.add_(0.01)
    moved = regularizer.projector(regularizer.anchors).detach()
    regularizer(embeddings, labels, classifier)
    torch.testing.assert_close(regularizer.semantic_anchors, 0.9 * first + 0.1 * moved)


def test_evaluation_mode_leaves_the_memory_alone():
    regularizer, classifier = build()
    open_gate(regularizer, classifier)
    embeddings, labels = batch()
    regularizer(embeddings, labels, classifier)
    before = copy.deepcopy(regularizer.state_dict())
    regularizer.eval()(embeddings, labels, classifier)
    for name, value in regularizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_ignored_pixels_change_nothing():
    regularizer, classifier = build()
    open_gate(regularizer, classifier)
    embeddings, labels = batch()
    disturbed = torch.where((labels == 255)[:, None], 1e6, embeddings)
    values, gradients = [], []
    for features in (embeddings, disturbed):
        features = features.clone().requires_grad_()
        loss = copy.deepcopy(regularizer)(features, labels, classifier)["loss_sar_pull"]
        loss.backward()
        values.append(loss)
        gradients.append(features.grad)
    assert values[0] == values[1]
    assert torch.equal(*gradients)
    assert (gradients[0].movedim(1, -1)[labels == 255] == 0).all()


def test_maps_points_and_samples_agree():
    regularizer, classifier = build()
    open_gate(regularizer, classifier)
    linear = nn.Linear(C, K).double()
    linear.weight.data, linear.bias.data = classifier.weight.data.flatten(1), classifier.bias.data
    embeddings, labels = batch()
    as_map = copy.deepcopy(regularizer)(embeddings, labels, classifier)
    as_points = copy.deepcopy(regularizer)(embeddings.flatten(2), labels.flatten(1), linear)
    samples = embeddings.movedim(1, -1).reshape(-1, C)
    as_samples = copy.deepcopy(regularizer)(samples, labels.flatten(), linear)
    for name, value in as_map.items():
        torch.testing.assert_close(as_points[name], value)
        torch.testing.assert_close(as_samples[name], value)


@pytest.mark.parametrize("factor", [4, 0.5])
def test_labels_of_another_size_are_brought_over_by_nearest(factor):
    regularizer, classifier = build()
    open_gate(regularizer, classifier)
    embeddings, _ = batch()
    size = int(8 * factor)
    labels = torch.randint(K, (2, size, size))
    # torch's "nearest" takes the upper left pixel of each cell
    index = (torch.arange(8) * factor).long()
    at_embedding_size = labels[:, index][:, :, index]
    expected = copy.deepcopy(regularizer)(embeddings, at_embedding_size, classifier)
    found = copy.deepcopy(regularizer)(embeddings, labels, classifier)
    assert found["loss_sar_pull"].item() > 0
    assert found == expected


def test_a_batch_with_no_valid_pixel_pulls_nothing_and_stays_finite():
    regularizer, classifier = build()
    open_gate(regularizer, classifier)
    embeddings, labels = batch()
    embeddings.requires_grad_()
    losses = regularizer(embeddings, torch.full_like(labels, 255), classifier)
    sum(losses.values()).backward()
    assert losses["loss_sar_pull"].item() == 0
    assert embeddings.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(dtype):
    regularizer, classifier = build(torch.float32)
    open_gate(regularizer, classifier)
    embeddings, labels = batch(dtype=torch.float32)
    embeddings = embeddings.to(dtype)
    expected = copy.deepcopy(regularizer)(embeddings.float(), labels, classifier)
    features = embeddings.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = copy.deepcopy(regularizer)(features, labels, classifier)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name])
    losses["loss_sar_pull"].backward()
    assert features.grad.dtype == dtype and features.grad.isfinite().all()


def test_extreme_logits_stay_finite():
    regularizer, classifier = build(torch.float32)
    with torch.no_grad():
        classifier.weight.mul_(1e4)  # probabilities underflow to 0
    embeddings, labels = batch(dtype=torch.float32)
    loss = regularizer(embeddings, labels, classifier)["loss_sar_anchor"]
    loss.backward()
    assert loss.isfinite() and loss > 0
    assert all(p.grad.isfinite().all() for p in regularizer.parameters())


def test_state_dict_round_trip_in_the_middle_of_training():
    def train(regularizer, classifier, steps):
        optimizer = torch.optim.SGD([*regularizer.parameters(), *classifier.parameters()], lr=0.3)
        trace = []
        for step in steps:
            embeddings, labels = batch(seed=step)
            losses = regularizer(embeddings, labels, classifier)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            trace.append({name: float(value) for name, value in losses.items()})
        return trace

    regularizer, classifier = build()
    train(regularizer, classifier, range(40))
    assert regularizer.gate_has_opened
    other = SemanticAnchorRegularizer(K, C).double()
    other.load_state_dict(regularizer.state_dict())
    other_classifier = copy.deepcopy(classifier)
    steps = range(40, 50)
    assert train(regularizer, classifier, steps) == train(other, other_classifier, steps)
    assert torch.equal(regularizer.semantic_anchors, other.semantic_anchors)


def test_the_graph_is_the_same_whatever_the_gate():
    regularizer, classifier = build()
    embeddings, labels = batch()
    embeddings.requires_grad_()
    closed = regularizer(embeddings, labels, classifier)
    assert not regularizer.gate_is_open
    open_gate(regularizer, classifier)
    opened = regularizer(embeddings, labels, classifier)
    assert regularizer.gate_is_open
    for name in closed:
        assert graph(closed[name]) == graph(opened[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="host synchronisation needs a GPU")
def test_no_host_synchronisation():
    regularizer, classifier = build(torch.float32)
    regularizer, classifier = regularizer.cuda(), classifier.cuda()
    embeddings, labels = (tensor.cuda() for tensor in batch(dtype=torch.float32))
    embeddings.requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(regularizer(embeddings, labels, classifier).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_given_anchors_are_used_and_copied():
    anchors = torch.eye(K, C)
    regularizer = SemanticAnchorRegularizer(K, C, anchors=anchors)
    anchors.zero_()
    assert torch.equal(regularizer.anchors, torch.eye(K, C))


def test_the_random_numbers_are_drawn_in_the_order_of_the_paper():
    torch.manual_seed(3)
    regularizer = SemanticAnchorRegularizer(K, C)
    torch.manual_seed(3)
    assert torch.equal(regularizer.anchors, torch.randn(K, C))
    assert torch.equal(regularizer.projector[0].weight, nn.Linear(C, C).weight)
    assert torch.equal(regularizer.projector[3].weight, nn.Linear(C, C).weight)
    assert torch.equal(regularizer.projector[6].weight, nn.Linear(C, C, bias=False).weight)


def test_without_a_gate_the_pull_works_from_the_first_step_whatever_the_anchors_are_taken_for():
    regularizer, classifier = build(gate_confidence=0)
    embeddings, labels = batch()
    projected = regularizer.projector(regularizer.anchors)
    assert (classifier(projected[..., None, None]).flatten(1).argmax(1) != torch.arange(K)).any()
    losses = regularizer(embeddings, labels, classifier)
    assert regularizer.gate_is_open and losses["loss_sar_pull"] > 0
    torch.testing.assert_close(regularizer.semantic_anchors, projected)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_classes": 1}, "at least 2 classes"),
        ({"momentum": 1.5}, "momentum"),
        ({"gate_confidence": -0.1}, "gate_confidence"),
        ({"pull_over": "class"}, '"pixels" or "classes", got "class"'),
        ({"hard_anchor_confidence": 2}, "hard_anchor_confidence"),
        ({"anchors": torch.zeros(C, K)}, r"\(6, 16\), found \(16, 6\)"),
        ({"anchors": torch.full((K, C), float("nan"))}, "NaN"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SemanticAnchorRegularizer(**{"num_classes": K, "embed_dim": C} | settings)


def test_shapes_that_do_not_go_together():
    regularizer, classifier = build()
    embeddings, labels = batch()
    with pytest.raises(ValueError, match="labels of shape"):
        regularizer(embeddings, labels[0], classifier)
    with pytest.raises(ValueError, match="16 channels"):
        regularizer(embeddings[:, :8], labels, classifier)
    with pytest.raises(ValueError, match="gives 7 classes, not 6"):
        regularizer(embeddings, labels, nn.Conv2d(C, 7, 1).double())
