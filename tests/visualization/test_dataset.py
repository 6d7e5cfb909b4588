import numpy as np
import pytest

from sar.data.class_frequency import ClassFrequency
from sar.visualization.dataset import (
    GROUP_COLORS,
    PANEL_WIDTH,
    TILE_WIDTH,
    UNGROUPED_COLOR,
    contact_sheet,
    evenly_spaced,
    plot_class_frequency,
    select_samples,
    text_bar,
)


def bar_lengths(picture, color, chart=slice(None)):
    """The lengths of the bars of a colour below the legend, from the top down."""
    is_color = (np.asarray(picture)[40:, chart] == color).all(axis=2).sum(axis=1)
    starts = np.flatnonzero((is_color[1:] > 0) & (is_color[:-1] == 0)) + 1
    return is_color[starts].tolist()


def test_bars_are_linear_and_coloured_by_group():
    images, pixels = (990, 30, 330, 0), (0, 1, 500, 1000)
    frequency = ClassFrequency(("a", "b", "c", "d"), 1000, images, pixels, 0)
    picture = plot_class_frequency(frequency)
    left, right = slice(picture.width // 2), slice(picture.width // 2, None)
    # Two of four classes are frequent, one is common, and one is rare.
    longest = PANEL_WIDTH
    assert bar_lengths(picture, GROUP_COLORS["f"], left) == [longest, longest / 3]
    assert bar_lengths(picture, GROUP_COLORS["c"], left) == [round(longest / 33)]
    assert bar_lengths(picture, GROUP_COLORS["r"], left) == []
    assert bar_lengths(picture, GROUP_COLORS["f"], right) == [longest, longest / 2]
    assert bar_lengths(picture, GROUP_COLORS["c"], right) == [1]  # 1000:1 can still be seen


def test_without_groups_all_bars_are_alike():
    frequency = ClassFrequency(("a", "b\n"), 5, (5, 1), (80, 8), 0)
    picture = plot_class_frequency(frequency, with_groups=False)
    assert not any(bar_lengths(picture, color) for color in GROUP_COLORS.values())
    left = slice(picture.width // 2)
    assert bar_lengths(picture, UNGROUPED_COLOR, left) == [PANEL_WIDTH, PANEL_WIDTH / 5]


@pytest.mark.parametrize(
    ("count", "expected"), [(0, ""), (1, "."), (4, "."), (6, "#"), (33, 3 * "#"), (100, 10 * "#")]
)
def test_a_bar_of_text_is_linear_and_shows_small_counts(count, expected):
    assert text_bar(count, 100, 10) == expected


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


@pytest.mark.parametrize("shape", [(4400, 64), (70_000, 1)])
def test_tiles_of_high_narrow_images_are_squeezed(shape):
    image, label = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    sheet = contact_sheet([("core", image, label)] * 9, ["a"], np.zeros((1, 3), np.uint8))
    assert 3 * 4 * TILE_WIDTH < sheet.height < 65_500  # as high as a JPEG can be
