import numpy as np
import pytest

from sar.data.class_frequency import ClassFrequency
from sar.data.loader import repeat_factors
from sar.data.tail import (
    class_repeat_factors,
    describe_ratio,
    percent,
    tail_by_image,
    tail_by_pixel,
)

from detectron2.config import CfgNode


def frequency(images, pixels, num_images=100):
    names = tuple(f"c{k}" for k in range(len(images)))
    return ClassFrequency(names, num_images, tuple(images), tuple(pixels), 0)


def test_length_and_order_leave_out_absent_classes():
    counts = frequency([50, 0, 100, 5], [700, 0, 30, 6600])
    by_image, by_pixel = tail_by_image(counts), tail_by_pixel(counts)
    assert by_image.order == [2, 0, 3] and by_pixel.order == [3, 0, 2]
    assert (by_image.most, by_image.least, by_image.ratio) == (2, 3, 20)
    assert by_pixel.ratio == 220


@pytest.mark.parametrize(("count", "expected"), [(10, True), (11, False)])
def test_a_tail_is_long_from_10_to_1(count, expected):
    assert tail_by_image(frequency([100, count], [1, 1])).is_long is expected


def test_rare_by_image_is_below_a_quarter_of_the_images():
    assert tail_by_image(frequency([100, 25, 24, 3], [1] * 4)).rare == [3, 2]


def test_rare_by_pixel_is_below_a_tenth_of_an_equal_share():
    # Three classes have pixels, so an equal share is 1000, and the limit 100.
    assert tail_by_pixel(frequency([9] * 4, [2800, 100, 0, 100])).rare == []
    assert tail_by_pixel(frequency([9] * 4, [2802, 99, 0, 99])).rare == [3, 1]
    assert tail_by_pixel(frequency([9] * 2, [951, 49])).rare == [1]


def test_repeat_factors_of_classes_and_images_agree(monkeypatch):
    rng = np.random.default_rng(0)
    shown = [[0, *np.flatnonzero(rng.random(4) < 0.15) + 1] for _ in range(40)]
    monkeypatch.setattr("sar.data.loader.classes_shown", lambda *args, **kwargs: shown)
    images = [sum(k in classes for classes in shown) for k in range(6)]
    cfg = CfgNode({
        "DATALOADER": {"REPEAT_THRESHOLD": 0.4, "MAX_SKIPPED_SAMPLES": 0},
        "INPUT": {"POINTS": {"VOXEL_SIZE": 0.0}},
        "MODEL": {"SEM_SEG_HEAD": {"NUM_CLASSES": 6, "IGNORE_VALUE": 255}},
    })  # fmt: skip
    of_classes = class_repeat_factors(frequency(images, images, 40), 0.4)
    assert of_classes[0] == of_classes[5] == 1 < max(of_classes)  # the last class is absent
    expected = [max(of_classes[k] for k in classes) for classes in shown]
    np.testing.assert_allclose(repeat_factors(cfg, shown), expected, rtol=1e-6)


def test_repeat_factors_without_square_root():
    counts = frequency([100, 5], [1, 1])
    assert class_repeat_factors(counts, 0.45) == pytest.approx([1, 3])
    assert class_repeat_factors(counts, 0.45, sqrt=False) == pytest.approx([1, 9])


@pytest.mark.parametrize(
    ("images", "expected"),
    [((100, 3), "33:1"), ((100, 48), "2.1:1"), ((46_026_000, 2000), "23,013:1")],
)
def test_the_length_in_words(images, expected):
    assert describe_ratio(tail_by_image(frequency(images, (1, 1), 10**8))) == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [(1, "100%"), (0.9951, "100%"), (0.994, "99%"), (0.075, "7.5%"), (3.3e-5, "0.0033%")]
    + [(0, "0%"), (1e-7, "less than 0.0001%")],
)
def test_parts_in_percent(part, expected):
    assert percent(part) == expected
