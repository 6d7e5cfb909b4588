"""Samples of clouds in memory, against a loop."""

import math

import numpy as np
import pytest

from sar.data.cloud_mapper import CloudMapper
from sar.data.clouds import Cloud
from sar.errors import InputError


def mapper(voxel_size=0.5, features=("xyz",)):
    return CloudMapper(
        False, voxel_size=voxel_size, features=features, num_classes=2, ignore_label=255
    )


def test_a_sample_has_features_and_voxels():
    generator = np.random.default_rng(0)
    xyz = generator.uniform(-3, 4, (20, 3)) + [5e6, -4e5, 100]  # map coordinates
    intensity = generator.random(20, np.float32)
    sample = mapper(features=("intensity", "xyz")).map_points(Cloud(xyz, intensity=intensity))
    lowest, highest = np.sort(xyz, axis=0)[[0, -1]]
    for p, (x, y, z) in enumerate(xyz):
        middle = (lowest + highest) / 2
        expected = [intensity[p], x - middle[0], y - middle[1], z - lowest[2]]
        np.testing.assert_array_equal(sample["image"][:, 0, p], np.float32(expected))
        assert sample["coordinates"][p].tolist() == [math.floor(2 * value) for value in (x, y, z)]
    assert (sample["height"], sample["width"]) == (1, 20)


@pytest.mark.parametrize("far", [1e7, 1e18, 1e20, 1e300, np.nan])
def test_a_point_too_far_away_for_voxels_names_the_file(far):
    xyz = np.array([[0, 0, 0], [1, 2, 3], [far, far, -far]])
    with pytest.raises(InputError, match=r"scan\.npz cannot be divided into voxels of 0\.01: "):
        mapper(0.01).map_points(Cloud(xyz), "scan.npz")


@pytest.mark.parametrize("far", [1e18, 1e300, -1e308])
def test_a_point_too_far_away_along_one_axis(far):
    with pytest.raises(InputError, match="cannot be divided into voxels of 0.5"):
        mapper().map_points(Cloud(np.array([[0, 0, 0], [1, far, 3]])))


def test_a_point_far_away_that_voxels_can_reach():
    xyz = np.array([[0, 0, 0], [1, 2, 3], [1e9, 5, 6]])
    found = mapper().map_points(Cloud(xyz))["coordinates"]
    assert found.tolist() == [[0, 0, 0], [2, 4, 6], [2 * 10**9, 10, 12]]
