import math

import numpy as np
import pytest
import torch
from torch import nn

from sar.errors import InputError
from sar.evaluation.validation_loss import ValidationLoss, loss_of
from sar.losses import (
    CrossEntropy,
    Dice,
    Focal,
    HardPixelMining,
    LogitAdjustment,
    Seesaw,
    WeightedSum,
)
from sar.modeling.head_loss import SegmentationLoss

K, IGNORE = 4, 255
WEIGHTS = torch.tensor([0.2, 3.0, 1.0, 7.0])
PIXELS = torch.tensor([700, 200, 90, 10])


def images():
    """Logits and labels of different sizes, with different shares of ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for height, width, share in [(5, 7, 0.1), (12, 9, 0.7), (3, 4, 1.0), (20, 16, 0.0)]:
        logits = 3 * torch.randn(K, height, width, generator=generator)
        labels = torch.randint(K, (height, width), generator=generator)
        labels[torch.rand(height, width, generator=generator) < share] = IGNORE
        found.append((logits, labels.to(torch.uint8)))
    return found


def measured(criterion, loss_weight=1.0, pairs=None):
    loss = ValidationLoss(SegmentationLoss(criterion, stride=4, loss_weight=loss_weight), IGNORE)
    for logits, labels in images() if pairs is None else pairs:
        loss.update(logits, labels)
    return loss.reduce()


def pixels(offsets=0):
    """Log-probability of the label of each valid pixel, and the labels, in float64."""
    found, of_label = [], []
    for logits, labels in images():
        z = logits.double().numpy().reshape(K, -1) + np.reshape(offsets, (-1, 1))
        y = labels.numpy().ravel()
        z, y = z[:, y != IGNORE], y[y != IGNORE]
        log_p = z - np.log(np.exp(z).sum(0))
        found.append(log_p[y, np.arange(len(y))])
        of_label.append(y)
    return np.concatenate(found), np.concatenate(of_label)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_the_weighted_mean_over_all_valid_pixels(fused, weights):
    log_p, labels = pixels()
    factors = np.ones(len(labels)) if weights is None else weights.double().numpy()[labels]
    expected = 0.5 * -(factors * log_p).sum() / factors.sum()
    found = measured(CrossEntropy(IGNORE, weights, fused=fused), loss_weight=0.5)
    assert found == pytest.approx(expected, rel=1e-6)
    of_images = [measured(CrossEntropy(IGNORE, weights), 0.5, [pair]) for pair in images()]
    assert math.isnan(of_images[2])  # no valid pixel
    assert np.nanmean(of_images) != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_loss_is_the_weighted_mean_over_all_valid_pixels(weights):
    log_p, labels = pixels()
    factors = np.ones(len(labels)) if weights is None else weights.double().numpy()[labels]
    focal = -((1 - np.exp(log_p)) ** 2) * log_p
    found = measured(Focal(IGNORE, 2.0, weights))
    assert found == pytest.approx((factors * focal).sum() / factors.sum(), rel=1e-6)


def test_a_sum_is_the_sum_of_its_terms():
    criteria = {
        "ce": CrossEntropy(IGNORE, WEIGHTS),
        "dice": Dice(IGNORE),
        "focal": Focal(IGNORE, 2),
    }
    factors = (1.0, 0.5, 2.0)
    expected = sum(
        factor * measured(criterion, 0.4)
        for factor, criterion in zip(factors, criteria.values(), strict=True)
    )
    terms = zip(criteria, zip(factors, criteria.values(), strict=True), strict=True)
    assert measured(WeightedSum(dict(terms)), 0.4) == pytest.approx(expected, rel=1e-12)


def test_logit_adjustment_is_the_mean_over_all_valid_pixels():
    prior = PIXELS.double().numpy() / PIXELS.sum().item()
    log_p, _ = pixels(offsets=2 * np.log(prior))
    found = measured(LogitAdjustment(PIXELS, IGNORE, tau=2.0))
    assert found == pytest.approx(-log_p.mean(), rel=1e-6)


def test_seesaw_keeps_the_counts_of_the_training():
    criterion = Seesaw(K, IGNORE, p=0.8, q=0.0)
    criterion.pixels_seen.copy_(PIXELS)
    # Without compensation, the factor of class j for label i is min(1, N_j / N_i)^p.
    total = number = 0
    for logits, labels in images():
        for z, y in zip(
            logits.double().numpy().reshape(K, -1).T, labels.flatten().tolist(), strict=True
        ):
            if y != IGNORE:
                factors = np.minimum(1, PIXELS.numpy() / PIXELS[y].item()) ** 0.8
                total += np.log((factors * np.exp(z)).sum()) - z[y]
                number += 1
    assert measured(criterion) == pytest.approx(total / number, rel=1e-6)
    assert measured(criterion, pairs=images()[::-1]) == pytest.approx(total / number, rel=1e-6)
    assert torch.equal(criterion.pixels_seen, PIXELS) and criterion.training
    with pytest.raises(InputError, match="lack the counts of the loss seesaw"):
        measured(Seesaw(K, IGNORE))


def test_hard_pixel_mining_takes_the_hardest_pixels_of_each_image():
    total = number = 0
    for logits, labels in images():
        z, y = logits.double().numpy().reshape(K, -1), labels.numpy().ravel()
        valid = y != IGNORE
        y = np.where(valid, y, 0)
        losses = np.where(valid, np.log(np.exp(z).sum(0)) - z[y, np.arange(len(y))], 0)
        total += valid.sum() * np.sort(losses)[::-1][: int(0.3 * len(y))].mean()
        number += valid.sum()
    assert measured(HardPixelMining(IGNORE, 0.3)) == pytest.approx(total / number, rel=1e-6)


def test_logits_of_half_precision():
    pairs = [(logits.bfloat16(), labels) for logits, labels in images()]
    expected = measured(CrossEntropy(IGNORE), pairs=[(x.float(), y) for x, y in pairs])
    assert measured(CrossEntropy(IGNORE), pairs=pairs) == expected


def test_no_valid_pixel_is_nan():
    assert math.isnan(measured(CrossEntropy(IGNORE), pairs=[]))


# The loss of a model


def model_with(head):
    model = nn.Module()
    model.sem_seg_head = head
    return model


def test_the_loss_of_a_head_or_the_loss_that_replaces_it():
    head, own = nn.Module(), SegmentationLoss(CrossEntropy(IGNORE), stride=4)
    head.loss = own
    assert loss_of(model_with(head), "sem_seg_head") is own
    vars(head)["segmentation_loss"] = other = SegmentationLoss(Seesaw(K, IGNORE), stride=4)
    assert loss_of(model_with(head), "sem_seg_head") is other


@pytest.mark.parametrize("own", [None, nn.CrossEntropyLoss()])
def test_a_head_with_another_loss_is_refused(own):
    head = nn.Module()
    head.loss = own
    message = "TEST.LOSS: Module has a loss of its own.*MODEL.LOSS.NAME.*TEST.LOSS False"
    with pytest.raises(InputError, match=message):
        loss_of(model_with(head), "sem_seg_head")
    with pytest.raises(InputError, match='MODEL.TAP.HEAD "head" leads nowhere in Module'):
        loss_of(model_with(head), "head")


def test_unknown_class_counts_are_refused():
    head = nn.Module()
    head.loss = SegmentationLoss(None, stride=4)
    with pytest.raises(InputError, match="TEST.LOSS: .*pixels of each class.*CLASS_FREQUENCY"):
        loss_of(model_with(head), "sem_seg_head")
