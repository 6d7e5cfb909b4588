"""Each loss against the formula of its paper, computed pixel by pixel in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sar.losses import CrossEntropy, HardPixelMining, LogitAdjustment, Seesaw

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
