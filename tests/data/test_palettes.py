import numpy as np
import pytest

from sar.data.datasets.folder import default_colors
from sar.data.palettes import PaletteComparison, meaningful_colors

NAMES = ("road", "car", "pothole")
BLACK, RED, GREEN = (0, 0, 0), (255, 0, 0), (0, 255, 0)
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
def test_palettes_of_applications_say_nothing(palette, ids):
    assert meaningful_colors(np.array(palette, np.uint8), ids) == {}


@pytest.mark.parametrize(
    "palette", [[BLACK, RED, GREEN], [(255,) * 3, BLACK, RED], [(255,) * 3, BLACK]]
)
def test_other_palettes_give_the_colours_of_the_ids(palette):
    ids = range(len(palette))
    assert meaningful_colors(np.array(palette, np.uint8), ids) == dict(enumerate(palette))


def warnings_of(*files, class_colors=()):
    comparison = PaletteComparison(NAMES, class_colors)
    for i, colors in enumerate(files):
        comparison.add(f"{i}.png", colors)
    return comparison.warnings()


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


def test_default_colours_of_classes_are_not_compared():
    assert warnings_of({0: BLACK, 1: RED}, class_colors=default_colors(3)) == []
