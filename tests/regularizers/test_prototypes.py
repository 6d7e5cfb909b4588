"""Prototype methods against independent float64 computations with loops, in one process and two."""

import math

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sar.regularizers import (
    CenterLossRegularizer,
    ClassAwareRegularizer,
    PrototypeContrastRegularizer,
    PrototypeRegularizer,
)

from ..autograd import graph
from ..distributed import run_processes

K, C = 5, 8
KINDS = [
    PrototypeRegularizer,
    PrototypeContrastRegularizer,
    CenterLossRegularizer,
    ClassAwareRegularizer,
]


def batch(seed=0, shape=(2, C, 6, 6), absent=()):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3
    labels = torch.randint(K, (shape[0], *shape[2:]), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    for k in absent:
        labels[labels == k] = 255
    return embeddings, labels


def sure_classifier(prototypes):
    """A linear layer that recognizes each of K prototypes with a high probability."""
    classifier = nn.Linear(C, K).double()
    with torch.no_grad():
        centred = prototypes - prototypes.mean(dim=0)
        solution = 50 * torch.linalg.pinv(centred).T
        classifier.weight.copy_(solution)
        classifier.bias.copy_(-solution @ prototypes.mean(dim=0))
    return classifier


def pixels_of(embeddings, labels):
    """The valid pixels, as pairs of a vector and a class."""
    rows = embeddings.movedim(1, -1).reshape(-1, C)
    return [(row, int(k)) for row, k in zip(rows, labels.flatten(), strict=True) if k != 255]


def means_of(pixels):
    found = {}
    for k in range(K):
        rows = [row for row, label in pixels if label == k]
        if rows:
            found[k] = sum(rows) / len(rows)
    return found


class IndependentPrototypes:
    def __init__(self, over):
        self.over, self.memory = over, {}

    def __call__(self, embeddings, labels, classifier):
        pixels = pixels_of(embeddings, labels)
        for k, mean in means_of(pixels).items():
            mean = mean.detach()
            old = self.memory.get(k, mean)
            self.memory[k] = 0.999 * old + 0.001 * mean
        for k, prototype in self.memory.items():
            p = torch.softmax(classifier(prototype[None])[0], 0)
            if p.argmax() != k or p[k] <= 0.8:
                return {"loss_prototype_pull": torch.zeros((), dtype=torch.float64)}
        by_class = {k: [] for k in range(K)}
        for row, k in pixels:
            by_class[k].append(((row - self.memory[k]) ** 2).sum() / C)
        if self.over == "pixels":
            terms = sum(by_class.values(), [])
        else:
            terms = [sum(found) / len(found) for found in by_class.values() if found]
        return {"loss_prototype_pull": 0.1 * sum(terms) / len(terms)}


class IndependentContrast:
    def __init__(self):
        self.memory = {}

    def __call__(self, embeddings, labels, classifier):
        pixels = [(row / row.norm(), k) for row, k in pixels_of(embeddings, labels)]
        for k, mean in means_of(pixels).items():
            mean = (mean / mean.norm()).detach()
            moved = 0.999 * self.memory.get(k, mean) + 0.001 * mean
            self.memory[k] = moved / moved.norm()
        contrast = distance = 0
        for row, k in pixels:
            terms = {j: torch.exp(row @ p / 0.1) for j, p in self.memory.items()}
            contrast = contrast - torch.log(terms[k] / sum(terms.values()))
            distance = distance + (1 - row @ self.memory[k]) ** 2
        return {
            "loss_prototype_contrast": 0.01 * contrast / len(pixels),
            "loss_prototype_distance": 0.001 * distance / len(pixels),
        }


class IndependentCenterLoss:
    def __init__(self):
        self.centres = [torch.zeros(C, dtype=torch.float64) for _ in range(K)]

    def __call__(self, embeddings, labels, classifier):
        pixels = pixels_of(embeddings, labels)
        loss = sum(((row - self.centres[k]) ** 2).sum() / 2 for row, k in pixels) / len(pixels)
        for k in range(K):
            rows = [row.detach() for row, label in pixels if label == k]
            total = sum((self.centres[k] - row for row in rows), torch.zeros(C))
            self.centres[k] = self.centres[k] - 0.5 * total / (1 + len(rows))
        return {"loss_class_center": 0.003 * loss}


def independent_car(embeddings, labels, classifier):
    pixels = pixels_of(embeddings, labels)
    zero = torch.zeros(C, dtype=torch.float64)
    means = means_of(pixels)
    means = [means.get(k, zero) for k in range(K)]
    fixed = [mean.detach() for mean in means]
    intra = sum((fixed[k] - row).abs().sum() for row, k in pixels) / (len(pixels) * C)

    def to_others(energies, k, threshold):
        relation = torch.softmax(torch.stack(energies) / math.sqrt(C), 0)
        return sum(max(relation[j] - threshold / (K - 1), 0 * zero[0]) for j in range(K) if j != k)

    centres = sum(to_others([means[k] @ f for f in fixed], k, 0.5) for k in range(K)) / K
    at_pixels = 0
    for row, k in pixels:
        energies = [fixed[j] @ fixed[j] if j == k else row @ fixed[j] for j in range(K)]
        at_pixels = at_pixels + to_others(energies, k, 0.25)
    at_pixels = at_pixels / len(pixels)
    return {"loss_car_intra": intra**2, "loss_car_inter": centres**2 + at_pixels**2}


PAIRS = {
    "prototype": (PrototypeRegularizer, {}, lambda: IndependentPrototypes("pixels")),
    "prototype over classes": (
        PrototypeRegularizer,
        {"pull_over": "classes"},
        lambda: IndependentPrototypes("classes"),
    ),
    "contrast": (PrototypeContrastRegularizer, {}, IndependentContrast),
    "center loss": (CenterLossRegularizer, {}, IndependentCenterLoss),
    "CAR": (ClassAwareRegularizer, {}, lambda: independent_car),
}


@pytest.mark.parametrize("kind, settings, independent", PAIRS.values(), ids=PAIRS)
def test_every_step_equals_the_independent_computation(kind, settings, independent):
    regularizer, other = kind(K, C, **settings).double(), independent()
    first = means_of(pixels_of(*batch()))
    classifier = sure_classifier(torch.stack([first[k] for k in range(K)]))
    for step, absent in enumerate([(4,), (), (0, 2), ()]):
        embeddings, labels = batch(seed=step, absent=absent)
        mine, theirs = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
        found = regularizer(mine, labels, classifier)
        expected = other(theirs, labels, classifier)
        assert found.keys() == expected.keys()
        for name, loss in expected.items():
            torch.testing.assert_close(found[name], loss, rtol=1e-10, atol=1e-14, msg=name)
        sum(found.values()).backward()
        if sum(expected.values()).requires_grad:
            sum(expected.values()).backward()
        gradient = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        torch.testing.assert_close(mine.grad, gradient, rtol=1e-8, atol=1e-14)
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_the_gate_follows_the_classifier():
    regularizer = PrototypeRegularizer(K, C).double()
    embeddings, labels = batch(absent=(3,))
    classifier = nn.Linear(C, K).double()
    assert regularizer(embeddings, labels, classifier)["loss_prototype_pull"] == 0
    prototypes = regularizer.memory.prototypes
    assert regularizer.memory.is_known.tolist() == [True, True, True, False, True]
    assert not prototypes[3].any()
    assert regularizer(embeddings, labels, sure_classifier(prototypes))["loss_prototype_pull"] > 0
    regularizer = PrototypeRegularizer(K, C, gate_confidence=0).double()
    assert regularizer(embeddings, labels, classifier)["loss_prototype_pull"] > 0


def test_the_gate_of_an_evaluation_is_that_of_its_classifier():
    embeddings, labels = batch()
    trained = PrototypeRegularizer(K, C).double()
    trained(embeddings, labels, nn.Linear(C, K).double())
    classifier = sure_classifier(trained.memory.prototypes)
    restored = PrototypeRegularizer(K, C).double().eval()
    restored.load_state_dict(trained.state_dict())
    assert restored(embeddings, labels, classifier)["loss_prototype_pull"] > 0
    assert restored(embeddings, labels, nn.Linear(C, K).double())["loss_prototype_pull"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_pixels_and_the_layout_change_nothing(kind):
    embeddings, labels = batch()
    classifier = sure_classifier(
        torch.stack(list(means_of(pixels_of(embeddings, labels)).values()))
    )

    def losses(embeddings, labels):
        return kind(K, C).double()(embeddings, labels, classifier)

    expected = losses(embeddings, labels)
    changed = torch.where((labels == 255)[:, None], 7.0, embeddings)
    samples = embeddings.movedim(1, -1).reshape(-1, C)
    large = labels.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    for found in (
        losses(changed, labels),
        losses(embeddings.contiguous(memory_format=torch.channels_last), labels),
        losses(embeddings, large),
        losses(samples, labels.flatten()),
    ):
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_a_valid_pixel_costs_nothing(kind):
    embeddings, labels = batch()
    regularizer = kind(K, C).double()
    embeddings.requires_grad_()
    losses = regularizer(embeddings, torch.full_like(labels, 255), nn.Linear(C, K).double())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert not embeddings.grad.any()
    assert all(not buffer.any() for name, buffer in regularizer.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_outside_float32_inside_and_one_graph(kind):
    embeddings, labels = batch()
    classifier = nn.Linear(C, K)
    graphs = []
    for dtype in (torch.float32, torch.bfloat16):
        given = embeddings.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = kind(K, C)(given, labels, classifier)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
    regularizer = kind(K, C).double()
    for absent in ((), (1, 2), range(K)):
        embeddings, labels = batch(absent=absent)
        losses = regularizer(embeddings.requires_grad_(), labels, classifier.double())
        graphs.append(graph(sum(losses.values())))
    assert graphs[0] == graphs[1] == graphs[2]


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_changes_no_state(kind):
    regularizer = kind(K, C).double().eval()
    regularizer(*batch(), nn.Linear(C, K).double())
    assert all(not buffer.any() for buffer in regularizer.state_dict().values())


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_shapes_are_refused(kind):
    embeddings, labels = batch()
    regularizer = kind(K, C + 1).double()
    with pytest.raises(ValueError, match="expected embeddings of 9 channels"):
        regularizer(embeddings, labels, nn.Linear(C + 1, K).double())
    with pytest.raises(ValueError, match="do not go with embeddings"):
        kind(K, C).double()(embeddings, labels[:1], nn.Linear(C, K).double())


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        (PrototypeRegularizer, {"momentum": 1.1}, "momentum must lie in"),
        (PrototypeRegularizer, {"gate_confidence": 2}, "gate_confidence must lie in"),
        (PrototypeRegularizer, {"pull_over": "images"}, "pull_over must be"),
        (PrototypeContrastRegularizer, {"temperature": 0}, "temperature must be above 0"),
        (PrototypeContrastRegularizer, {"momentum": -1}, "momentum must lie in"),
        (CenterLossRegularizer, {"alpha": 2}, "alpha must lie in"),
    ],
)
def test_arguments_out_of_range_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(K, C, **settings)


def test_car_needs_two_classes():
    with pytest.raises(ValueError, match="at least 2 classes"):
        ClassAwareRegularizer(1, C)


class Network(nn.Module):
    """A trained layer with one of the regularizers on its output."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, C).double()
        self.classifier = nn.Linear(C, K).double()
        settings = {"gate_confidence": 0} if kind is PrototypeRegularizer else {}
        self.regularizer = kind(K, C, **settings).double()

    def forward(self, samples, labels):
        return self.regularizer(self.layer(samples), labels, self.classifier)


def results(network, part):
    """Losses, gradients and state after two steps with a part of the samples."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 1, 3, 3, 255, 1, 0])
    for _ in range(2):
        samples = torch.randn(7, 3, generator=generator, dtype=torch.float64)
        network.zero_grad()
        losses = network(samples[part], labels[part])
        sum(losses.values()).backward()
    module = getattr(network, "module", network)
    return (
        {name: loss.detach() for name, loss in losses.items()},
        {name: p.grad for name, p in module.layer.named_parameters()},
        module.regularizer.state_dict(),
    )


def train_on_a_part(rank, folder, kind, first):
    network = DistributedDataParallel(Network(kind), find_unused_parameters=True)
    part = slice(0, first) if rank == 0 else slice(first, 7)
    torch.save(results(network, part), folder / f"{rank}.pth")


@pytest.mark.parametrize("first", [5, 7], ids=["5 and 2", "all and none"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one_with_all_samples(kind, first, tmp_path):
    losses, gradients, state = results(Network(kind), slice(0, 7))
    run_processes(train_on_a_part, 2, tmp_path, kind, first)
    found = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    for name, loss in losses.items():
        mean = (found[0][0][name] + found[1][0][name]) / 2
        torch.testing.assert_close(mean, loss, rtol=1e-12, atol=1e-14, msg=name)
    for _, of_rank, its_state in found:
        for name, gradient in gradients.items():
            assert gradient.any()
            torch.testing.assert_close(of_rank[name], gradient, rtol=1e-9, atol=1e-14, msg=name)
        for name, buffer in state.items():
            torch.testing.assert_close(its_state[name], buffer, rtol=1e-12, atol=1e-14)
