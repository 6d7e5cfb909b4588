"""Each loss against the formula of its paper, computed pixel by pixel in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from sar.losses import (
    CrossEntropy,
    Dice,
    Focal,
    HardPixelMining,
    LogitAdjustment,
    Lovasz,
    Seesaw,
)
from sar.losses.lovasz import jaccard_steps

K, IGNORE = 5, 255
PIXELS = (70_000, 900, 29_000, 0, 100)
WEIGHTS = torch.tensor([0.2, 1.5, 0.7, 3.0, 9.0], dtype=torch.float64)


def pixels(seed=0, num_ignored=5):
    """Logits (2, K, 3, 4) and labels, in float64."""
    torch.manual_seed(seed)
    logits = (3 * torch.randn(2, K, 3, 4, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(K, (2, 3, 4))
    labels.view(-1)[torch.randperm(24)[:num_ignored]] = IGNORE
    return logits, labels


def in_numpy(logits, labels):
    """Logits (P, K) and labels (P,) of the valid pixels, and their mask."""
    flat = logits.detach().movedim(1, -1).reshape(-1, K).numpy()
    labels = labels.flatten().numpy()
    valid = labels != IGNORE
    return flat[valid], labels[valid], valid


def weighted_softmax_loss(logits, labels, factors, weights):
    """Mean over the pixels of -log(e^z_i / sum_j S_ij e^z_j), S_ii = 1, and its gradient
    S_ij e^z_j / sum - [i = j]; for factors S (P, K) and weights (P,) of the pixels."""
    logits, labels, valid = in_numpy(logits, labels)
    value, gradient = 0.0, np.zeros((len(valid), K))
    for row, z, i, s, w in zip(
        np.flatnonzero(valid), logits, labels, factors, weights, strict=True
    ):
        scores = s * np.exp(z)
        value -= w * np.log(np.exp(z[i]) / scores.sum())
        gradient[row] = w * (scores / scores.sum() - np.eye(K)[i])
    gradient = gradient.reshape(2, 3, 4, K).transpose(0, 3, 1, 2)
    return value / sum(weights), torch.from_numpy(gradient / sum(weights))


def assert_value_and_gradient(loss, logits, labels, expected, tolerance=1e-12):
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    assert abs(value.item() / expected[0] - 1) < tolerance
    torch.testing.assert_close(gradient, expected[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy(weights):
    logits, labels = pixels()
    _, classes, _ = in_numpy(logits, labels)
    per_pixel = np.ones(len(classes)) if weights is None else weights.numpy()[classes]
    expected = weighted_softmax_loss(logits, labels, np.ones((len(classes), K)), per_pixel)
    assert_value_and_gradient(CrossEntropy(IGNORE, weights), logits, labels, expected)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.7])
def test_logit_adjustment(tau):
    logits, labels = pixels()
    labels[labels == 3] = IGNORE  # the class that never occurs
    _, classes, _ = in_numpy(logits, labels)
    priors = np.maximum(np.array(PIXELS, float), 1) / (sum(PIXELS) + 1)
    # e^(z_i + tau log pi_i) / sum_j e^(z_j + tau log pi_j)
    factors = (priors[None, :] / priors[classes][:, None]) ** tau
    expected = weighted_softmax_loss(logits, labels, factors, np.ones(len(classes)))
    loss = LogitAdjustment(torch.tensor(PIXELS), IGNORE, tau)
    assert_value_and_gradient(loss, logits, labels, expected, tolerance=1e-6)


def seesaw_factors(logits, labels, seen, p, q):
    logits, labels, _ = in_numpy(logits, labels)
    seen = np.maximum(seen, 1)
    factors = np.ones((len(labels), K))
    for row, (z, i) in enumerate(zip(logits, labels, strict=True)):
        scores = np.exp(z) / np.exp(z).sum()
        for j in range(K):
            if j == i:
                continue
            if seen[i] > seen[j]:
                factors[row, j] *= (seen[j] / seen[i]) ** p
            if scores[j] > max(scores[i], 0.01):
                factors[row, j] *= (scores[j] / max(scores[i], 0.01)) ** q
    return factors


@pytest.mark.parametrize("p, q", [(0.8, 2.0), (0.0, 2.0), (0.8, 0.0), (0.5, 1.0)])
def test_seesaw(p, q):
    loss = Seesaw(K, IGNORE, p=p, q=q)
    seen = np.zeros(K)
    for step in range(3):
        logits, labels = pixels(seed=step)
        labels[labels == 3 - step] = 0
        _, classes, _ = in_numpy(logits, labels)
        seen += np.bincount(classes, minlength=K)
        factors = seesaw_factors(logits, labels, seen, p, q)
        expected = weighted_softmax_loss(logits, labels, factors, np.ones(len(classes)))
        assert_value_and_gradient(loss, logits, labels, expected)
        assert loss.pixels_seen.tolist() == seen.tolist()


def test_seesaw_without_its_factors_is_cross_entropy():
    logits, labels = pixels()
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    torch.testing.assert_close(Seesaw(K, IGNORE, p=0, q=0)(logits, labels), expected)


def test_seesaw_counts_on_where_float32_would_stop():
    loss = Seesaw(K, IGNORE)
    loss.pixels_seen += 2**40
    logits, labels = pixels(num_ignored=0)
    loss(logits, labels)
    assert (loss.pixels_seen - 2**40).sum() == labels.numel()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_hard_pixel_mining(weights):
    logits, labels = pixels()
    of_classes = np.ones(K) if weights is None else weights.numpy()
    z, classes, valid = in_numpy(logits, labels)
    per_pixel = np.zeros(24)
    log_sum = np.log(np.exp(z).sum(axis=1))
    own = z[np.arange(len(z)), classes]
    per_pixel[valid] = of_classes[classes] * (log_sum - own)
    expected = np.sort(per_pixel)[-6:].mean()  # a quarter of 24
    found = HardPixelMining(IGNORE, 0.25, weights)(logits, labels)
    assert abs(found.item() / expected - 1) < 1e-12


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal(gamma, weights, fused):
    logits, labels = pixels()
    z, classes, _ = in_numpy(logits, labels)
    p = softmax(z)[np.arange(len(z)), classes]
    w = np.ones(len(z)) if weights is None else weights.numpy()[classes]
    expected = -(w * (1 - p) ** gamma * np.log(p)).sum() / w.sum()
    found = Focal(IGNORE, gamma, weights, fused=fused)(logits, labels)
    assert abs(found.item() / expected - 1) < 1e-12


def test_focal_of_two_classes_is_that_of_torchvision():
    logits = torch.randn(40, 2, dtype=torch.float64)
    labels = torch.randint(2, (40,))
    found = Focal(IGNORE, 2.0)(logits, labels)
    margin = logits[:, 1] - logits[:, 0]
    expected = sigmoid_focal_loss(margin, labels.double(), alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("fused", [False, True])
def test_focal_of_certain_pixels_has_a_finite_gradient(gamma, fused):
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0], [0.0, 0.0]], requires_grad=True)
    loss = Focal(IGNORE, gamma, fused=fused)(logits, torch.tensor([0, 0, IGNORE]))
    loss.backward()
    assert logits.grad.isfinite().all() and loss.item() == pytest.approx(90)
    torch.testing.assert_close(logits.grad[1], torch.tensor([-0.5, 0.5]))


@pytest.mark.parametrize("absent", [(), (1,), (0, 1, 2)])
def test_dice(absent):
    logits, labels = pixels()
    for k in absent:
        labels[labels == k] = IGNORE
    z, classes, _ = in_numpy(logits, labels)
    p, g = softmax(z), np.eye(K)[classes]
    losses = [
        1 - 2 * (p[:, k] * g[:, k]).sum() / (p[:, k].sum() + g[:, k].sum())
        for k in range(K)
        if g[:, k].any()
    ]
    assert len(losses) == K - len(absent)
    found = Dice(IGNORE)(logits, labels)
    assert abs(found.item() / np.mean(losses) - 1) < 1e-12


@pytest.mark.parametrize("absent", [(), (1,), (0, 1, 2)])
def test_lovasz(absent):
    logits, labels = pixels()
    for k in absent:
        labels[labels == k] = IGNORE
    z, classes, _ = in_numpy(logits, labels)
    losses = []
    for k in set(classes):
        p, is_k = softmax(z)[:, k], classes == k
        errors = np.where(is_k, 1 - p, p)
        # The Lovasz extension is the integral over t in [0, 1] of the Jaccard loss of the pixels
        # whose error is t or more. Between two errors, it is constant.
        levels = np.sort(np.append(errors, 0))
        losses.append(0.0)
        for low, high in zip(levels[:-1], levels[1:], strict=True):
            wrong = errors >= high
            losses[-1] += (high - low) * wrong.sum() / (is_k | wrong).sum()
    found = Lovasz(IGNORE)(logits, labels)
    assert abs(found.item() / np.mean(losses) - 1) < 1e-12


def test_losses_of_regions_that_are_certain_are_one_minus_the_metrics():
    logits, labels = pixels()
    labels[labels == 4] = IGNORE
    found = logits.argmax(dim=1)
    valid = labels != IGNORE
    iou, f1 = [], []
    for k in range(4):
        a, b = (found == k) & valid, labels == k
        iou.append(((a & b).sum() / (a | b).sum()).item())
        f1.append((2 * (a & b).sum() / (a.sum() + b.sum())).item())
    certain = 1000 * F.one_hot(found, K).movedim(-1, 1).double()
    assert Lovasz(IGNORE)(certain, labels).item() == pytest.approx(1 - np.mean(iou))
    assert Dice(IGNORE)(certain, labels).item() == pytest.approx(1 - np.mean(f1))


def test_the_steps_of_many_pixels_are_exact_in_float32():
    errors = torch.randperm(200_000) / 200_000
    is_member = torch.rand(200_000) < 0.01
    found = jaccard_steps(errors, is_member)
    order = np.argsort(-errors.numpy())
    member = is_member.numpy()[order]
    union = member.sum() + (~member).cumsum()
    jaccard = 1 - (member.sum() - member.cumsum()) / union
    expected = np.empty_like(jaccard)
    expected[order] = np.diff(jaccard, prepend=0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize(
    "criterion",
    [
        Focal(IGNORE, 0.5, WEIGHTS),
        Focal(IGNORE, 2.0, fused=True),
        Dice(IGNORE),
        Lovasz(IGNORE),
    ],
)
def test_gradcheck(criterion):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(3, (2, 4, 5))
    labels[:, 1] = IGNORE
    assert torch.autograd.gradcheck(lambda z: criterion(z, labels, 2), logits)


@pytest.mark.parametrize("absent", [(), (1, 3)])
def test_dice_and_lovasz_are_those_of_segmentation_models_pytorch(absent):
    losses = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, labels = (x.detach() for x in pixels())
    logits = logits.float().requires_grad_()  # its Lovasz loss takes no float64
    for k in absent:
        labels[labels == k] = IGNORE
    # Its mean has the absent classes, too, with a loss of 0.
    share = 1 - len(absent) / K
    for ours, theirs in (
        (share * Dice(IGNORE)(logits, labels), losses.DiceLoss("multiclass", ignore_index=IGNORE)),
        (Lovasz(IGNORE)(logits, labels), losses.LovaszLoss("multiclass", ignore_index=IGNORE)),
    ):
        expected = theirs(logits, labels)
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
        gradients = (torch.autograd.grad(each, logits)[0] for each in (ours, expected))
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
