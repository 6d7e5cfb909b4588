import numpy as np
import pytest

from sar.data.class_frequency import ClassFrequency
from sar.visualization.dataset import (
    GROUP_COLORS,
    TILE_WIDTH,
    UNGROUPED_COLOR,
    contact_sheet,
    evenly_spaced,
    plot_class_frequency,
    select_samples,
)


def bar_lengths(picture, color):
    """Of each row of pixels that has that colour, right of the legend: how much of it."""
    is_color = (np.asarray(picture)[40:] == color).all(axis=2)
    return sorted(set(is_color.sum(axis=1).tolist()) - {0})


def test_bars_are_logarithmic_and_coloured_by_group():
    frequency = ClassFrequency(("a", "b", "c", "gone"), 1000, (1000, 100, 10, 0), (0, 0, 1, 0), 0)
    picture = plot_class_frequency(frequency)
    # By images: a and b are frequent, c common, and the absent class rare, without a bar. By
    # pixels, c alone has one, a frequent class.
    short, long = (bar_lengths(picture, GROUP_COLORS["f"])[i] for i in (0, -1))
    (common,) = bar_lengths(picture, GROUP_COLORS["c"])
    hundred = bar_lengths(picture, GROUP_COLORS["f"])[-2]
    assert long - hundred == pytest.approx(hundred - common, abs=1)
    assert short > 0
    assert bar_lengths(picture, GROUP_COLORS["r"]) == []
    assert bar_lengths(picture, UNGROUPED_COLOR) == []


def test_without_groups_all_bars_are_alike():
    frequency = ClassFrequency(("a", "b"), 5, (5, 1), (80, 7), 0)
    picture = plot_class_frequency(frequency, with_groups=False)
    assert not any(bar_lengths(picture, color) for color in GROUP_COLORS.values())
    assert len(bar_lengths(picture, UNGROUPED_COLOR)) >= 2


@pytest.mark.parametrize(
    ("number", "expected"),
    # Class 2 is in image 4 alone, class 1 in images 3 and 4; then others, evenly.
    [(1, [4]), (2, [0, 4]), (3, [0, 1, 4]), (9, [0, 1, 2, 3, 4])],
)
def test_the_rarest_classes_are_looked_at_first(number, expected):
    classes = [[0], [0], [0], [0, 1], [1, 2]]
    assert select_samples(classes, (4, 2, 1), number) == expected


def test_classes_that_no_image_shows_take_no_place():
    assert select_samples([[0], [1]], (1, 1, 0), 1) == [0]
    assert select_samples([], (0,), 3) == []


@pytest.mark.parametrize(
    ("number", "expected"), [(1, [0]), (2, [0, 4]), (4, [0, 1, 3, 4]), (9, [0, 1, 2, 3, 4])]
)
def test_evenly_spaced_records_reach_from_end_to_end(number, expected):
    records = [{"id": i} for i in range(5)]
    assert [record["id"] for record in evenly_spaced(records, number)] == expected


def test_tiles_show_labels_over_images_of_any_size():
    colors = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
    samples = []
    for size in ((20, 40), (900, 600), (3, 500)):
        image = np.zeros((*size, 3), np.uint8)
        label = np.zeros(size, np.uint16)
        label[:, size[1] // 2 :] = 65535
        samples.append(("long name " * 9, image, label))
    sheet = contact_sheet(samples, ["red", "green"], colors, columns=2)
    assert sheet.width < 3 * TILE_WIDTH
    counts = {color: number for number, color in sheet.getcolors(2**24)}
    tiles = TILE_WIDTH * (160 + 480 + 2)
    # Half of the pixels are red over black, the ignored half is black over black.
    assert counts[(127, 0, 0)] == pytest.approx(tiles / 2, rel=0.02)
    assert counts[(0, 0, 0)] == pytest.approx(tiles / 2, rel=0.02)
    assert (0, 255, 0) not in counts  # not in any legend
    assert (255, 0, 0) in counts
