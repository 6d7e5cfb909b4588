"""Elastic distortion of clouds, and trilinear interpolation of periodic noise.

Shape shorthands: N points, T nodes along an edge of a grid, C channels.
"""

import math
from itertools import product

import numpy as np

from sar.errors import InputError

# T of the noise.
_NOISE_SIZE = 32
# Points that are interpolated at a time. Arrays that stay in the cache halve the time.
_CHUNK = 8192


class ElasticDistortion:
    """Move points by smooth noise, as the recipes of MinkowskiEngine and Pointcept for ScanNet do.

    Normal noise on a coarse grid is blurred twice by a box of 3 x 3 x 3 nodes, interpolated
    trilinearly, and added to the coordinates. At a node, one coordinate of a displacement has a
    standard deviation of 0.114 times the magnitude.

    Here, the noise repeats after 32 nodes along each axis. So time and memory do not depend on the
    extent of the cloud, and a point far away does no harm.

    Args:
        granularity: distance between nodes, in the unit of the coordinates.
        magnitude: factor of the noise, in the same unit.

    Raises:
        InputError: a value is out of range; the message names the config key.
    """

    def __init__(self, granularity: float, magnitude: float) -> None:
        if not (0 < granularity < math.inf and 0 <= magnitude < math.inf):
            raise InputError(
                f"INPUT.POINTS.ELASTIC has the pair ({granularity}, {magnitude}). Expected a "
                "granularity above 0 and a magnitude of 0 or more."
            )
        self.granularity = granularity
        self.magnitude = magnitude

    def __call__(self, xyz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return distorted coordinates (N, 3)."""
        noise = smooth_noise(_NOISE_SIZE, rng)
        return xyz + self.magnitude * interpolate(noise, xyz / self.granularity)


def smooth_noise(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return periodic smooth noise (T, T, T, 3) float32; `size` is T."""
    noise = rng.standard_normal((size, size, size, 3), np.float32)
    for axis in (0, 1, 2) * 2:
        noise = (np.roll(noise, 1, axis) + noise + np.roll(noise, -1, axis)) / 3
    return noise


def interpolate(grid: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Interpolate a periodic grid trilinearly.

    Args:
        grid: (T, T, T, C) float32; T is a power of two.
        positions: (N, 3), in nodes. Node (0, 0, 0) is at the origin and, with period T, elsewhere.

    Returns:
        (N, C) float32.
    """
    result = np.zeros((len(positions), grid.shape[3]), np.float32)
    for start in range(0, len(positions), _CHUNK):
        part = slice(start, start + _CHUNK)
        _add_interpolated(result[part], grid, positions[part])
    return result


def _add_interpolated(result: np.ndarray, grid: np.ndarray, positions: np.ndarray) -> None:
    size = len(grid)
    columns = np.ascontiguousarray(positions.T)
    floors = np.floor(columns)
    upper_weights = (columns - floors).astype(np.float32)
    lower = floors.astype(np.int64) & (size - 1)  # also of negative numbers, the remainder
    upper = (lower + 1) & (size - 1)
    steps = np.array([size * size, size, 1])[:, None]
    rows = (lower * steps, upper * steps)
    weights = (1 - upper_weights, upper_weights)
    values = grid.reshape(size**3, -1)
    for i, j, k in product(range(2), repeat=3):
        corner = values.take(rows[i][0] + rows[j][1] + rows[k][2], axis=0)
        corner *= (weights[i][0] * weights[j][1] * weights[k][2])[:, None]
        result += corner
