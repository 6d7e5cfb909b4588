"""The noise against SciPy's filter, its interpolation against SciPy's, and its bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sar.errors import InputError
from sar.points.elastic import ElasticDistortion, interpolate, smooth_noise

ndimage = pytest.importorskip("scipy.ndimage")
scipy_interpolate = pytest.importorskip("scipy.interpolate")

few = settings(max_examples=30, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)


def points(seed, number=200, extent=5.0):
    return np.random.default_rng(seed).uniform(-extent, extent, (number, 3))


@few
@given(
    seed=seeds,
    size=st.sampled_from([1, 2, 4, 16]),
    channels=st.integers(1, 4),
    extent=st.sampled_from([0.5, 3, 40, 1e5]),
)
def test_interpolation_is_scipys_on_a_periodic_grid(seed, size, channels, extent):
    rng = np.random.default_rng(seed)
    grid = rng.standard_normal((size, size, size, channels), np.float32)
    positions = points(seed, 50, extent)
    positions[:10] = np.round(positions[:10])  # at nodes
    found = interpolate(grid, positions)
    assert found.dtype == np.float32
    for channel in range(channels):
        expected = ndimage.map_coordinates(
            grid[..., channel].astype(np.float64), positions.T, order=1, mode="grid-wrap"
        )
        np.testing.assert_allclose(found[:, channel], expected, rtol=0, atol=2e-6)


@few
@given(seed=seeds)
def test_interpolation_is_that_of_a_regular_grid_inside_of_it(seed):
    rng = np.random.default_rng(seed)
    grid = rng.standard_normal((8, 8, 8, 3), np.float32)
    positions = rng.uniform(0, 7, (60, 3))
    axes = [np.arange(8.0)] * 3
    expected = scipy_interpolate.RegularGridInterpolator(axes, grid.astype(np.float64))(positions)
    np.testing.assert_allclose(interpolate(grid, positions), expected, rtol=0, atol=2e-6)


def test_the_noise_is_normal_noise_after_two_box_filters():
    noise = np.random.default_rng(0).standard_normal((16, 16, 16, 3), np.float32)
    expected = noise.astype(np.float64)
    for _ in range(2):
        expected = ndimage.uniform_filter(expected, size=(3, 3, 3, 1), mode="wrap")
    found = smooth_noise(16, np.random.default_rng(0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_noise_has_the_documented_deviation():
    noise = smooth_noise(32, np.random.default_rng(0))
    # Two boxes of width 3 are the weights 1, 2, 3, 2, 1 over 9.
    deviation = (np.sum(np.square([1, 2, 3, 2, 1])) / 81) ** 1.5
    assert deviation == pytest.approx(0.114, abs=5e-4)
    assert noise.std(axis=(0, 1, 2)) == pytest.approx(deviation, rel=0.05)


@few
@given(
    seed=seeds,
    granularity=st.floats(0.05, 5),
    magnitude=st.floats(0, 5),
    step=st.floats(1e-4, 1),
)
def test_displacements_are_bounded_and_smooth(seed, granularity, magnitude, step):
    xyz = points(seed)
    near = xyz + np.random.default_rng(seed + 1).uniform(-step, step, xyz.shape)
    distort = ElasticDistortion(granularity, magnitude)
    moved, moved_near = (
        distort(array, np.random.default_rng(seed)) - array for array in (xyz, near)
    )
    noise = smooth_noise(32, np.random.default_rng(seed)).astype(np.float64)
    slack = 1e-5 * (1 + magnitude)  # float32
    assert np.abs(moved).max() <= magnitude * np.abs(noise).max() + slack
    # Along each axis, a displacement changes by the greatest step between nodes at most.
    slopes = [np.abs(np.diff(noise, axis=axis, append=noise.take([0], axis))) for axis in range(3)]
    slopes = np.array([slope.max() for slope in slopes]) * magnitude / granularity
    assert (np.abs(moved - moved_near).max(axis=1) <= np.abs(xyz - near) @ slopes + slack).all()


def test_displacements_are_as_large_as_the_magnitude_says():
    xyz = points(0, 5000)
    moved = [
        ElasticDistortion(0.2, magnitude)(xyz, np.random.default_rng(1)) - xyz
        for magnitude in (0.4, 0.8)
    ]
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=0, atol=1e-6)
    assert 0.06 < moved[0].std() / 0.4 < 0.114


def test_granularity_is_the_length_over_which_displacements_are_alike():
    def likeness(granularity, step):
        xyz = points(2, 4000)
        moved, moved_near = (
            ElasticDistortion(granularity, 1.0)(array, np.random.default_rng(3)) - array
            for array in (xyz, xyz + [step, 0, 0])
        )
        return np.corrcoef(moved.ravel(), moved_near.ravel())[0, 1]

    assert likeness(0.2, 0.05) > 0.95
    assert abs(likeness(0.2, 1.3)) < 0.1 < 0.9 < likeness(1.6, 1.3 / 2)


def test_a_point_far_away_costs_nothing():
    xyz = np.array([[0.0, 0.0, 0.0], [1e9, -1e9, 4e6]])
    moved = ElasticDistortion(0.2, 0.4)(xyz, np.random.default_rng(0)) - xyz
    assert 0 < np.abs(moved).max() < 0.4


def test_the_input_stays():
    xyz = points(4)
    xyz.flags.writeable = False
    first, again, other = (
        ElasticDistortion(0.2, 0.4)(xyz, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("pair", [(0, 1), (-1, 1), (1, -1), (float("inf"), 1), (1, float("inf"))])
def test_bad_values_name_their_key(pair):
    with pytest.raises(InputError, match="INPUT.POINTS.ELASTIC.*granularity above 0"):
        ElasticDistortion(*pair)
