import math

import numpy as np
import pytest
import torch

from sar.evaluation.boundaries import boundary_metrics, update_boundary_counts

IGNORE = 255


def label_map(generator, size, num_classes, ignored=0.0):
    """Blocks of classes with ragged edges, and blocks of ignored pixels."""
    height, width = size
    blocks = generator.integers(0, num_classes, (height // 4 + 1, width // 5 + 1))
    labels = blocks.repeat(4, 0).repeat(5, 1)[:height, :width]
    noise = generator.random(size) < 0.05
    labels = np.where(noise, generator.integers(0, num_classes, size), labels)
    holes = generator.random((height // 3 + 1, width // 3 + 1)) < ignored
    return np.where(holes.repeat(3, 0).repeat(3, 1)[:height, :width], IGNORE, labels)


def band_of_mask(mask, ignored, distance):
    """The pixels of a mask that are near its outside, pixel by pixel."""
    height, width = mask.shape
    band = np.zeros_like(mask)
    for i, j in np.argwhere(mask & ~ignored):
        rows, columns = range(i - distance, i + distance + 1), range(j - distance, j + distance + 1)
        band[i, j] = any(
            not (0 <= r < height and 0 <= c < width) or not (mask[r, c] or ignored[r, c])
            for r in rows
            for c in columns
        )
    return band


def boundary_iou(pairs, num_classes, distance):
    """Each class on its own, from its own mask, over all images."""
    both, either, in_truth = np.zeros((3, num_classes))
    for prediction, truth in pairs:
        ignored = truth == IGNORE
        for k in range(num_classes):
            of_truth = band_of_mask(truth == k, ignored, distance)
            of_prediction = band_of_mask(prediction == k, ignored, distance)
            both[k] += (of_truth & of_prediction).sum()
            either[k] += (of_truth | of_prediction).sum()
            in_truth[k] += of_truth.sum()
    return np.where(in_truth > 0, 100 * both / np.maximum(either, 1), np.nan)


def measured(pairs, num_classes, groups=None):
    counts = torch.zeros(3, num_classes, dtype=torch.int64)
    for prediction, truth in pairs:
        update_boundary_counts(counts, prediction, truth, IGNORE)
    return boundary_metrics(counts, [f"c{k}" for k in range(num_classes)], groups)


# 2% of the diagonal: 0.5 pixels, rounded up to the least; 1 pixel; 2 pixels.
@pytest.mark.parametrize(("size", "distance"), [((14, 17), 1), ((30, 40), 1), ((60, 80), 2)])
@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_each_class_has_the_band_of_its_own_mask(size, distance, ignored):
    generator = np.random.default_rng(0)
    pairs = []
    for _ in range(2):
        truth = label_map(generator, size, 4, ignored)
        wrong = generator.random(size) < 0.1
        guess = np.where(truth == IGNORE, label_map(generator, size, 4), truth)
        pairs.append((np.where(wrong, label_map(generator, size, 4), guess), truth))
    expected = boundary_iou(pairs, 5, distance)  # the last class is nowhere
    metrics = measured(pairs, 5, {"r": [1, 4]})
    found = [metrics[f"BoundaryIoU-c{k}"] for k in range(5)]
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert 5 < np.nanmin(expected) and np.nanmax(expected) < 95 and math.isnan(expected[4])
    assert metrics["mBoundaryIoU"] == pytest.approx(np.nanmean(expected), abs=1e-9)
    assert metrics["mBoundaryIoU@r"] == pytest.approx(expected[1], abs=1e-9)


def test_the_boundary_counts_for_the_higher_and_for_the_lower_class():
    # An erosion of the label map would leave class 0 without a band.
    truth = np.zeros((30, 40), np.uint8)
    truth[:, 20:] = 1
    prediction = np.zeros_like(truth)
    prediction[:, 21:] = 1
    counts = torch.zeros(3, 2, dtype=torch.int64)
    update_boundary_counts(counts, prediction, truth, IGNORE)
    # The border of the image, and the columns at the boundary: 19, 20 in the ground truth.
    assert counts[0].tolist() == [2 * 20 + 2 * 28, 2 * 20 + 2 * 28]
    assert counts[1].tolist() == [2 * 21 + 2 * 28, 2 * 19 + 2 * 28]
    # The columns at the boundary share no pixel.
    assert counts[2].tolist() == [2 * 20 + 28, 2 * 19 + 28]


def test_an_ignored_pixel_makes_no_boundary():
    truth = np.zeros((30, 40), np.uint8)
    truth[10:20, 10:20] = IGNORE
    counts = torch.zeros(3, 2, dtype=torch.int64)
    update_boundary_counts(counts, np.zeros_like(truth), truth, IGNORE)
    assert counts.tolist() == [[2 * 40 + 2 * 28, 0]] * 3
    # Nor does what the model predicts there.
    again = torch.zeros_like(counts)
    update_boundary_counts(again, np.where(truth == IGNORE, 1, 0), truth, IGNORE)
    assert torch.equal(again, counts)


@pytest.mark.parametrize(("num_classes", "ignore"), [(256, 300), (300, 65535), (12, 7)])
def test_more_classes_than_8_bits_and_any_ignore_label(num_classes, ignore):
    generator = np.random.default_rng(0)
    few = label_map(generator, (30, 40), 4, ignored=0.2)
    guess = label_map(generator, (30, 40), 4)
    expected = torch.zeros(3, 4, dtype=torch.int64)
    update_boundary_counts(expected, guess, few, IGNORE)
    ids = np.array([0, 1, num_classes - 2, num_classes - 1])
    truth = np.where(few == IGNORE, ignore, ids[np.minimum(few, 3)]).astype(np.int32)
    counts = torch.zeros(3, num_classes, dtype=torch.int64)
    update_boundary_counts(counts, ids[guess], truth, ignore)
    assert counts[:, ids].tolist() == expected.tolist()
    assert counts.sum() == expected.sum() > 500


def test_an_image_smaller_than_the_band_or_without_a_valid_pixel():
    counts = torch.zeros(3, 2, dtype=torch.int64)
    update_boundary_counts(counts, np.array([[1]]), np.array([[1]]), IGNORE)
    assert counts.tolist() == [[0, 1]] * 3
    update_boundary_counts(counts, np.zeros((5, 6)), np.full((5, 6), IGNORE), IGNORE)
    assert counts.tolist() == [[0, 1]] * 3
