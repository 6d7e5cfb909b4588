import numpy as np
from PIL import Image

from sar.visualization import class_colors, colorize, draw_overlay, side_by_side
from sar.visualization.overlay import region_edges

from detectron2.data import Metadata

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)


def test_colorize_gives_classes_their_colour_and_everything_else_black():
    labels = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]]
    assert colorize(labels, COLORS).tolist() == expected
    assert colorize(labels.astype(np.int64) - 1, COLORS)[0, 0].tolist() == [0, 0, 0]


def test_class_colours_are_the_data_sets_own_and_all_different_where_it_has_none():
    own = Metadata(stuff_classes=["a", "b", "c"], stuff_colors=COLORS.tolist())
    assert class_colors(own).tolist() == COLORS.tolist()
    colors = class_colors(Metadata(stuff_classes=[str(k) for k in range(150)]))
    assert colors.shape == (150, 3) and colors.dtype == np.uint8
    assert len({tuple(color) for color in colors.tolist()} - {(0, 0, 0)}) == 150


def test_side_by_side_shows_all_three_and_names_what_they_show():
    image = np.full((100, 240, 3), 77, np.uint8)
    truth = np.zeros((100, 240), np.uint8)
    prediction = np.ones((100, 240), np.int64)
    picture = np.asarray(side_by_side(image, truth, prediction, ["a", "b", "c"], COLORS))
    left, middle, right = (picture[80, x].tolist() for x in (100, 350, 600))
    assert (left, middle, right) == ([77, 77, 77], [255, 0, 0], [0, 255, 0])
    legend = picture[-25:].reshape(-1, 3).tolist()
    assert [255, 0, 0] in legend and [0, 255, 0] in legend and [0, 0, 255] not in legend


def test_ignored_pixels_are_in_the_legend_and_a_truth_need_not_be_there():
    image = np.full((100, 240, 3), 77, np.uint8)
    truth = np.zeros((100, 240), np.uint16)
    prediction = np.ones((100, 240), np.int64)
    names = ["a", "b", "c"]
    plain = np.asarray(side_by_side(image, truth, prediction, names, COLORS))
    truth[5, 5] = 65535
    picture = np.asarray(side_by_side(image, truth, prediction, names, COLORS))
    ends = [np.flatnonzero((each[-22:] < 255).any(axis=(0, 2))).max() for each in (plain, picture)]
    assert ends[1] > ends[0] + 40 and picture.shape == plain.shape
    without = np.asarray(side_by_side(image, None, prediction, names, COLORS))
    assert without.shape == (len(plain), len(plain[0]) - 248, 3)
    assert without[80, 350].tolist() == [0, 255, 0]
    assert [255, 0, 0] not in without.reshape(-1, 3).tolist()


def test_the_legend_of_many_classes_is_wrapped_and_stays_in_the_picture():
    names = [f"a class with a long name {number}" for number in range(40)]
    colors = np.random.default_rng(0).integers(1, 255, (40, 3), dtype=np.uint8)
    labels = np.arange(40 * 90).reshape(40, 90) // 90
    picture = side_by_side(np.zeros((40, 90, 3), np.uint8), labels, labels, names, colors)
    pixels = {tuple(pixel) for pixel in np.asarray(picture)[-400:].reshape(-1, 3).tolist()}
    assert {tuple(color) for color in colors.tolist()} <= pixels
    assert isinstance(picture, Image.Image)


def test_an_overlay_is_the_image_under_its_colours_with_the_classes_it_shows():
    image = np.full((100, 240, 3), 100, np.uint8)
    labels = np.zeros((100, 240), np.uint8)
    labels[:, 120:] = 2
    picture = np.asarray(draw_overlay(image, labels, ["a", "b", "c"], COLORS))
    assert picture[50, 60].tolist() == [177, 50, 50]
    assert picture[50, 180].tolist() == [50, 50, 177]
    legend = picture[100:].reshape(-1, 3).tolist()
    assert [255, 0, 0] in legend and [0, 0, 255] in legend and [0, 255, 0] not in legend
    picture = draw_overlay(image, labels, ["a", "b", "c"], COLORS, all_classes=True)
    assert [0, 255, 0] in np.asarray(picture)[100:].reshape(-1, 3).tolist()


def test_edges_are_left_of_and_above_another_label():
    labels = np.random.default_rng(0).integers(0, 3, (6, 7))
    expected = [
        [
            (x < 6 and labels[y, x] != labels[y, x + 1])
            or (y < 5 and labels[y, x] != labels[y + 1, x])
            for x in range(7)
        ]
        for y in range(6)
    ]
    assert region_edges(labels).tolist() == expected
    assert not region_edges(np.zeros((1, 1), np.uint8)).any()


def test_a_line_tells_dark_regions_on_a_dark_scene_apart():
    # A pedestrian of CamVid next to ignored pixels, with 65535 as their id.
    colors = np.array([[64, 64, 0]], dtype=np.uint8)
    labels = np.zeros((100, 240), np.uint16)
    labels[:, 120:] = 65535
    picture = np.asarray(draw_overlay(np.full((100, 240, 3), 10, np.uint8), labels, ["a"], colors))
    left, line, right = (picture[50, x].astype(int) for x in (118, 119, 120))
    assert (line - np.maximum(left, right)).min() > 100
    assert left.tolist() == [37, 37, 5] and right.tolist() == [5, 5, 5]


def test_a_small_overlay_is_enlarged():
    labels = np.arange(3, dtype=np.uint8)[None].repeat(2, 0)
    picture = draw_overlay(np.zeros((2, 3, 3), np.uint8), labels, ["a", "b", "c"], COLORS)
    assert picture.width == 240 and picture.height > 160
    assert np.asarray(picture)[159, 239].tolist() == [0, 0, 127]
