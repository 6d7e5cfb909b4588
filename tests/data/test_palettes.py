import numpy as np
import pytest

from sar.data.datasets.folder import default_colors
from sar.data.palettes import IdColors, PaletteComparison, given_colors

from detectron2.data import Metadata

NAMES = ("road", "car", "pothole")
BLACK, RED, GREEN = (0, 0, 0), (255, 0, 0), (0, 255, 0)
GREY, WHITE, MAROON, OLIVE = (127,) * 3, (255,) * 3, (128, 0, 0), (0, 128, 0)
VOC = [[0, 0, 0], *default_colors(255)]


@pytest.mark.parametrize(
    "palette, ids",
    [
        ([[i, i, i] for i in range(256)], [0, 1, 2, 7]),
        ([[0, 0, 0], [255, 255, 255]], [0, 1]),
        ([[0, 0, 0], [100, 100, 100], [200, 200, 200]], [0, 1, 2]),
        (VOC, [0, 1, 2, 3]),
        (VOC, [2]),
        (default_colors(256), [0, 1, 2]),
        ([[9, 8, 7]] * 256, [0, 1, 2]),
        ([[255, 0, 0]], [1, 2]),  # shorter than the ids
        ([[255, 0, 0]], []),
    ],
)
def test_palettes_that_programs_write_by_default(palette, ids):
    found = IdColors.of(np.array(palette, np.uint8), ids)
    assert found.is_default or found.colors == {}


@pytest.mark.parametrize("palette", [[BLACK, RED, GREEN], [WHITE, BLACK, RED], [WHITE, BLACK]])
def test_other_palettes_give_the_colours_of_the_ids(palette):
    found = IdColors.of(np.array(palette, np.uint8), range(len(palette)))
    assert found == IdColors(dict(enumerate(palette)), is_default=False)


def compared(comparison, *files):
    """Add palettes of all ids, by id, and return the warnings."""
    for i, colors in enumerate(files):
        palette = np.zeros((256, 3), np.uint8)
        for k, color in colors.items():
            palette[k] = color
        comparison.add(f"{i}.png", IdColors.of(palette, sorted(colors)))
    return comparison.warnings()


def warnings_of(*files, class_colors=()):
    return compared(PaletteComparison(NAMES, dict(enumerate(class_colors))), *files)


def test_equal_palettes_agree():
    assert warnings_of({0: BLACK, 1: RED}, {1: RED, 2: GREEN}, {}) == []


def test_palettes_that_disagree_are_named_once():
    (warning,) = warnings_of({1: RED, 2: GREEN}, {1: RED}, {1: GREEN, 2: RED}, {1: BLACK})
    assert warning.startswith(
        "The palettes of label files disagree about the ids 1, 2: "
        '1 ("car") is #ff0000 in 0.png and #00ff00 in 2.png'
    )


def test_colours_of_the_classes():
    assert warnings_of({1: RED}, class_colors=[BLACK, RED, GREEN]) == []
    (warning,) = warnings_of({0: BLACK, 1: GREEN}, class_colors=[BLACK, RED, GREEN])
    assert "palettes of label files contradict the colours of classes.txt" in warning
    assert 'the id 1: 1 ("car") is #00ff00 in 0.png, but #ff0000 there' in warning


# Each draws on the same colours as a default palette, for other ids.
@pytest.mark.parametrize(
    "default, other, about",
    [
        ([BLACK, MAROON, OLIVE], [BLACK, OLIVE, MAROON], "the ids 1, 2"),
        ([BLACK, GREY, WHITE], [BLACK, WHITE, GREY], "the ids 1, 2"),
        ([BLACK, WHITE], [WHITE, BLACK], "the ids 0, 1"),
        ([BLACK, MAROON], [BLACK, OLIVE, MAROON], "the id 1"),  # each file numbered on its own
    ],
)
def test_colours_that_a_default_palette_has_for_other_ids(default, other, about):
    for files in ((default, other), (other, default)):
        (warning,) = warnings_of(*(dict(enumerate(palette)) for palette in files))
        assert f"The palettes of label files disagree about {about}: " in warning


@pytest.mark.parametrize(
    "palettes",
    [
        [VOC, default_colors(256)],
        [VOC, [[i] * 3 for i in range(256)], [BLACK, GREY, WHITE], [BLACK, WHITE]],
        [VOC, [(128, 64, 128), RED, BLACK]],
    ],
)
def test_palettes_of_several_programs_are_no_disagreement(palettes):
    assert warnings_of(*(dict(enumerate(palette[:3])) for palette in palettes)) == []


def test_default_palettes_are_compared_with_the_colours_of_the_classes():
    voc = dict(enumerate([BLACK, MAROON, OLIVE]))
    assert warnings_of(voc, class_colors=[BLACK, MAROON, OLIVE]) == []
    assert warnings_of(voc, class_colors=[BLACK, RED, GREEN]) == []
    (warning,) = warnings_of(voc, class_colors=[BLACK, OLIVE, MAROON])
    assert 'the ids 1, 2: 1 ("car") is #800000 in 0.png, but #008000 there' in warning


def test_warnings_are_not_repeated():
    comparison = PaletteComparison(NAMES, {})
    assert compared(comparison, {1: RED, 2: GREEN}) == []
    (warning,) = compared(comparison, {1: GREEN, 2: GREEN, 0: RED})
    assert "about the id 1" in warning
    assert compared(comparison, {1: GREEN, 2: GREEN, 0: RED}) == []


def test_default_colours_count_if_they_are_given():
    default = default_colors(3)
    assert given_colors(Metadata(stuff_colors=[*default[:2], RED])) == {2: RED}
    given = given_colors(Metadata(stuff_colors=default, given_colors={1: default[1]}))
    assert given == {1: tuple(default[1])}
    assert given_colors(Metadata()) == {}
