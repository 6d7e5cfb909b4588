from types import SimpleNamespace

import numpy as np
import pytest

from sar.visualization import cloud_picture
from sar.visualization.cloud_picture import (
    CORRECT_COLOR,
    UNKNOWN_COLOR,
    WRONG_COLOR,
    draw_cloud,
    error_colors,
    own_colors,
)

NAMES = ["floor", "wall", "cup"]
COLORS = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=np.uint8)


PANEL = (66, 144)


@pytest.fixture
def cloud(monkeypatch):
    monkeypatch.setattr(cloud_picture, "PANEL", PANEL)
    xyz = np.random.default_rng(0).uniform(0, 1, (400, 3)) * [3, 2, 0.1]
    return SimpleNamespace(xyz=xyz, color=None, intensity=None, normal=None)


def colors_in(picture):
    return {tuple(color) for color in np.asarray(picture).reshape(-1, 3).tolist()}


def test_own_colours(cloud):
    assert len(np.unique(own_colors(cloud), axis=0)) > 50  # by height
    cloud.intensity = np.linspace(-5, 900, 400).astype(np.float32)
    grey = own_colors(cloud)
    assert (grey == grey[:, :1]).all() and grey[-1, 0] > grey[0, 0] + 150
    cloud.intensity[:] = 3
    assert len(np.unique(own_colors(cloud))) == 1
    cloud.color = np.tile(np.float32([0, 0.2, 1]), (400, 1))
    assert np.unique(own_colors(cloud), axis=0).tolist() == [[0, 51, 255]]
    assert own_colors(cloud).dtype == np.uint8


def test_error_colors():
    found = error_colors(np.array([0, 1, 2, 255, -1, 3]), np.array([0, 2, 2, 0, 0, 0]), 3)
    expected = [CORRECT_COLOR, WRONG_COLOR, CORRECT_COLOR] + 3 * [UNKNOWN_COLOR]
    assert found.tolist() == list(map(list, expected)) and found.dtype == np.uint8


def test_the_panels_and_the_legend(cloud):
    truth = np.zeros(400, dtype=np.int64)
    prediction = np.ones(400, dtype=np.int64)
    widths = {}
    for layers in ((None, prediction), (truth, prediction)):
        picture = draw_cloud(cloud, *layers, NAMES, COLORS)
        widths[sum(ids is not None for ids in layers)] = picture.width
        assert picture.height > 2 * PANEL[0]
        legend = {tuple(color.tolist()) for color in COLORS} & colors_in(
            picture.crop((0, picture.height - 22, picture.width, picture.height))
        )
        expected = {tuple(COLORS[ids[0]].tolist()) for ids in layers if ids is not None}
        assert legend == expected
    assert widths[2] == 2 * widths[1]


def test_each_panel_shows_its_layer_in_both_views(cloud):
    truth = np.zeros(400, dtype=np.int64)
    prediction = np.ones(400, dtype=np.int64)
    truth[:20] = 255
    picture = np.asarray(draw_cloud(cloud, truth, prediction, NAMES, COLORS)).astype(int)
    quarter = picture.shape[1] // 4
    for top in (24, 24 + PANEL[0] + 8):
        panels = [
            picture[top : top + PANEL[0], left * quarter : (left + 1) * quarter]
            for left in range(4)
        ]
        red, green = (
            [np.mean(panel[..., k] > panel[..., 1 - k] + 60) for panel in panels] for k in (0, 1)
        )
        assert red[1] > 0.05 and red[2] == 0 and red[3] > 0.05  # wrong is red, too
        assert green[2] > 0.05 and green[1] == 0 == green[3]
        assert (panels[1].max(axis=-1) < 10).any()  # ignored
    assert tuple(UNKNOWN_COLOR) in colors_in(picture[-22:])
