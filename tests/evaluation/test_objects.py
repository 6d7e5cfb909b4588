import math
from collections import Counter

import numpy as np
import pytest
import torch

from sar.evaluation.objects import object_metrics, update_object_counts

IGNORE = 255


def objects_of(labels, ignore=None):
    """(class, set of pixels) of each object, by flooding from pixel to pixel."""
    left = {tuple(p) for p in np.argwhere(labels != ignore)}
    found = []
    while left:
        seed = left.pop()
        pixels, border = {seed}, [seed]
        while border:
            i, j = border.pop()
            for near in [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]:
                if near in left and labels[near] == labels[seed]:
                    left.remove(near)
                    pixels.add(near)
                    border.append(near)
        found.append((int(labels[seed]), pixels))
    return found


def counted(prediction, truth, num_classes, min_iou):
    """Every object against every other one."""
    ignored = {tuple(p) for p in np.argwhere(truth == IGNORE)}
    truths, guesses = objects_of(truth, IGNORE), objects_of(prediction)

    def is_match(one, other):
        pixels = other[1] - ignored
        return one[0] == other[0] and len(one[1] & pixels) >= min_iou * len(one[1] | pixels)

    found = [one for one in truths if any(is_match(one, guess) for guess in guesses)]
    correct = [guess for guess in guesses if any(is_match(one, guess) for one in truths)]
    predicted = [
        guess
        for guess in guesses
        if guess in correct or 2 * len(guess[1] & ignored) <= len(guess[1])
    ]
    rows = [Counter(k for k, _ in objects) for objects in (truths, found, predicted, correct)]
    return [[row[k] for k in range(num_classes)] for row in rows]


def update(prediction, truth, num_classes=3, min_iou=0.5):
    counts = torch.zeros(4, num_classes, dtype=torch.int64)
    update_object_counts(counts, prediction, truth, IGNORE, min_iou=min_iou)
    return counts.tolist()


@pytest.mark.parametrize("min_iou", [0.01, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("ignored", [0.0, 0.15])
def test_counts_equal_a_comparison_of_all_pairs(min_iou, ignored):
    generator = np.random.default_rng(0)
    total = np.zeros((4, 4), int)
    for size in [(13, 17), (24, 18), (1, 9), (30, 30)]:
        truth = generator.integers(0, 4, (size[0] // 3 + 1, size[1] // 3 + 1))
        truth = truth.repeat(3, 0).repeat(3, 1)[: size[0], : size[1]]
        wrong = generator.random(size) < 0.15
        prediction = np.where(wrong, generator.integers(0, 4, size), truth)
        holes = generator.random((size[0] // 2 + 1, size[1] // 2 + 1)) < ignored
        truth = np.where(holes.repeat(2, 0).repeat(2, 1)[: size[0], : size[1]], IGNORE, truth)
        expected = counted(prediction, truth, 4, min_iou)
        assert update(prediction, truth, 4, min_iou) == expected
        total += expected
    assert (total > 0).all()
    assert (total[3] < total[2]).any()
    assert (total[1] < total[0]).any() or min_iou < 0.5


def test_objects_touch_at_a_corner_and_have_one_class():
    truth = np.array([[1, 0, 2, 2], [0, 1, 2, 0], [1, 2, 2, 0]])
    assert update(truth, truth) == [[2, 1, 1]] * 4


def test_an_iou_of_exactly_the_threshold_is_enough():
    truth, prediction = np.zeros((2, 4, 6), np.uint8)
    truth[1, :2] = 1
    prediction[1, :4] = 1
    assert [row[1] for row in update(prediction, truth)] == [1, 1, 1, 1]
    prediction[1, 4] = 1
    assert [row[1] for row in update(prediction, truth)] == [1, 0, 1, 0]


def test_a_low_threshold_counts_hits_and_the_number_of_matches_may_differ():
    truth, prediction = np.zeros((2, 3, 12), np.uint8)
    truth[1, 2:10] = 1
    prediction[1, 1:4] = prediction[1, 6:8] = 1  # two pieces of one object
    assert [row[1] for row in update(prediction, truth, min_iou=0.2)] == [1, 1, 2, 2]
    assert [row[1] for row in update(prediction, truth)] == [1, 0, 2, 0]


def test_a_predicted_object_may_extend_over_ignored_pixels():
    truth, prediction = np.zeros((2, 5, 12), np.uint8)
    truth[2, 1:3] = 1
    truth[2, 3:6] = IGNORE
    prediction[2, 1:7] = 1  # one object, with a valid pixel behind the ignored ones
    assert [row[1] for row in update(prediction, truth)] == [1, 1, 1, 1]
    # More than half of it is ignored, and it finds nothing: not counted.
    prediction[2, 1:3] = 0
    assert [row[1] for row in update(prediction, truth)] == [1, 0, 0, 0]
    prediction[2, 6:9] = 1
    assert [row[1] for row in update(prediction, truth)] == [1, 0, 1, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_an_image_without_a_valid_pixel(dtype):
    truth = np.full((4, 5), IGNORE, dtype)
    assert update(np.ones((4, 5), dtype), truth) == [[0] * 3] * 4


def test_metrics():
    counts = torch.tensor([[4, 0, 2, 0], [3, 0, 0, 0], [6, 5, 0, 0], [2, 0, 0, 0]])
    metrics = object_metrics(counts, ["a", "b", "c", "d"], {"r": [1, 2]})
    assert metrics == pytest.approx(
        {
            "mObjectRecall": 37.5,
            "ObjectRecall-a": 75.0,
            "ObjectRecall-b": math.nan,
            "ObjectRecall-c": 0.0,
            "ObjectRecall-d": math.nan,
            "mObjectRecall@r": 0.0,
            "mObjectPrecision": 100 / 3,
            "ObjectPrecision-a": 100 / 3,
            "ObjectPrecision-b": math.nan,
            "ObjectPrecision-c": math.nan,
            "ObjectPrecision-d": math.nan,
            "mObjectPrecision@r": math.nan,
        },
        nan_ok=True,
    )
