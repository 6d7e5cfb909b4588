"""Pictures of rare classes in clouds: the part around an object, which is always visible."""

import numpy as np
import pytest

from sar.data.clouds import Cloud
from sar.visualization.rare_classes import draw_rare_classes
from sar.visualization.rare_cloud_classes import CloudExample, around_largest_object

COLORS = np.array([[200, 200, 200], [250, 0, 250]], np.uint8)


def plane(number, height, generator, width=10.0):
    return np.column_stack([generator.uniform(0, width, (number, 2)), np.full(number, height)])


def example(xyz, truth, predictions=None):
    cloud = Cloud(xyz.astype(np.float64))
    return CloudExample("cup: 3 training clouds", 1, cloud, truth, predictions or {})


def test_the_part_is_around_the_object_with_the_most_points():
    generator = np.random.default_rng(0)
    small = generator.uniform(0, 0.2, (5, 3)) + [1, 1, 0]
    large = generator.uniform(0, 0.2, (30, 3)) + [8, 3, 0]
    xyz = np.concatenate([plane(2000, 0, generator), small, large])
    part = around_largest_object(xyz, np.arange(len(xyz)) >= 2000)
    assert set(range(2005, 2035)) <= set(part.tolist())
    assert not set(range(2000, 2005)) & set(part.tolist())
    middle = (large.min(axis=0) + large.max(axis=0))[:2] / 2
    np.testing.assert_array_less(np.abs(xyz[part, :2] - middle), 2.6)
    assert len(part) > 300  # its surroundings


@pytest.mark.parametrize("hidden", [False, True])
def test_the_class_is_visible_even_below_other_points(hidden):
    generator = np.random.default_rng(0)
    xyz = plane(4000, 0, generator)
    covers = [plane(6000, z, generator) for z in (-0.5, 0.5)] if hidden else []
    cup = generator.uniform(0, 0.1, (20, 3)) + [5, 5, 0]
    xyz = np.concatenate([xyz, *covers, cup])
    truth = np.zeros(len(xyz), np.int64)
    truth[-20:] = 1
    found = truth.copy()
    found[-5:] = 0
    row = example(xyz, truth, {"plain": found})
    mask, panels = row.mask(), row.panels(COLORS)
    assert mask.any() and list(panels) == ["cloud", "ground truth", "plain"]
    shown = (panels["ground truth"][..., 1] < 50) & (panels["ground truth"][..., 0] > 80)
    assert shown.any() and not shown[~mask].any()
    picture = np.asarray(draw_rare_classes([row], COLORS))
    assert (picture == (220, 30, 30)).all(axis=2).any()  # the frame


def test_a_cloud_of_one_point_can_be_drawn():
    row = example(np.zeros((1, 3)), np.ones(1, np.int64), {"plain": np.zeros(1, np.int64)})
    assert draw_rare_classes([row], COLORS).width > 0
