"""Class weights against the words of their papers."""

import numpy as np
import pytest
import torch

from sar.losses import (
    effective_number_weights,
    enet_weights,
    inverse_frequency_weights,
    median_frequency_weights,
)

K = 5
PIXELS, IMAGES = (70_000, 900, 29_000, 0, 100), (10, 3, 9, 0, 1)


def test_inverse_frequency():
    n = sum(PIXELS)
    expected = [n / (4 * count) if count else 1.0 for count in PIXELS]
    found = inverse_frequency_weights(PIXELS, IMAGES)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    mean = (found * torch.tensor(PIXELS)).sum() / n
    assert abs(mean - 1) < 1e-12


def test_enet():
    expected = [1 / np.log(1.02 + count / sum(PIXELS)) for count in PIXELS]
    found = enet_weights(PIXELS, IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[3] == found.max() and 50 < found[3] < 51


@pytest.mark.parametrize("num_present", [3, 4])
def test_median_frequency(num_present):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 0, 0, 0, 0, 0, 255], (12, 6, 7))
    for k in range(1, num_present):
        labels[: 12 // k, :k, : 5 - k] = k
    present = list(range(num_present))
    shows = {k: (labels == k).any(axis=(1, 2)) for k in present}
    # The paper's words: pixels of c, divided by the pixels of the images where c is present.
    shares = {k: (labels == k).sum() / labels[shows[k]].size for k in present}
    median = np.median(list(shares.values()))
    expected = [median / shares[k] if k in shares else 1.0 for k in range(K)]

    pixels = [int((labels == k).sum()) for k in range(K)]
    images = [int(shows[k].sum()) if k in shows else 0 for k in range(K)]
    found = median_frequency_weights(pixels, images)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_effective_number(beta):
    # The paper's words: the sum over the samples of beta^(j - 1), the part of sample j that is new.
    effective = [sum(beta**j for j in range(count)) for count in IMAGES]
    inverse = [1 / number if number else 0.0 for number in effective]
    mean = sum(inverse) / 4
    expected = [weight / mean if weight else 1.0 for weight in inverse]
    found = effective_number_weights(PIXELS, IMAGES, beta)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_effective_number_near_its_limits():
    pixels, images = (5, 5, 0), (20_000, 1, 0)
    torch.testing.assert_close(
        effective_number_weights(pixels, images, 0.0), torch.ones(3, dtype=torch.float64)
    )
    many, one, never = effective_number_weights(pixels, images, 1 - 1e-12)
    assert one / many == pytest.approx(20_000, rel=1e-3) and never == 1
