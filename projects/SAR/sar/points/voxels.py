"""From points to voxels: coordinates, means of features, and labels by majority.

Shape shorthands: P points, V voxels, C channels.
"""

import numpy as np
import torch

from sar.errors import InputError
from sar.points.geometry import bounds

# Most voxels of a cloud along an axis. So the grid of a batch of seven such clouds has fewer than
# 2^63 voxels, as `Sites` needs.
_MOST_VOXELS = 2**20
_LARGEST = 2**53  # largest voxel coordinate that float64 represents exactly


def voxel_coordinates(xyz: np.ndarray, edge: float, path: str) -> np.ndarray:
    """Return the voxel (P, 3) int64 of each point.

    Args:
        xyz: (P, 3) float64, with one point or more.
        edge: length of a voxel's edge, in the unit of the coordinates.
        path: names the cloud in an error message.

    Raises:
        InputError: there are no points, or too many voxels along an axis to number them.
    """
    if not len(xyz):
        raise InputError(f"{path} has no points: remove it.")
    low, high = bounds(xyz)
    with np.errstate(over="ignore"):
        number = ((high - low) / edge).max()
        farthest = np.abs([low, high]).max() / edge
    if not (number < _MOST_VOXELS and farthest < _LARGEST):  # so that NaN is refused
        ranges = ", ".join(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True))
        raise InputError(
            f"{path} cannot be divided into voxels of {edge:g}: its coordinates range over "
            f"{ranges}. Look for points far away from the others, or set INPUT.POINTS.VOXEL_SIZE "
            "higher."
        )
    return np.floor(xyz / edge).astype(np.int64)


def voxel_means(features: torch.Tensor, voxel_of: torch.Tensor, num_voxels: int) -> torch.Tensor:
    """Return the mean feature (V, C) of the points in each voxel.

    Args:
        features: (P, C) float.
        voxel_of: (P,) int64, the voxel of each point. Each voxel has at least one point.
        num_voxels: V.
    """
    sums = features.new_zeros(num_voxels, features.shape[1]).index_add_(0, voxel_of, features)
    counts = features.new_zeros(num_voxels).index_add_(
        0, voxel_of, features.new_ones(()).expand(len(features))
    )
    return sums / counts[:, None]


def majority_labels(
    labels: torch.Tensor, voxel_of: torch.Tensor, num_voxels: int, ignore_value: int
) -> torch.Tensor:
    """Return the most frequent label (V,) of the points in each voxel.

    Ignored points do not vote; a voxel with ignored points only is ignored. If several labels are
    equally frequent, the smallest wins.

    Args:
        labels: (P,) int64 class ids from 0, or `ignore_value`.
        voxel_of: (P,) int64, the voxel of each point.
        num_voxels: V.
        ignore_value: label of points that do not count.
    """
    votes = labels != ignore_value
    labels, voxel_of = labels[votes], voxel_of[votes]
    result = labels.new_full((num_voxels,), ignore_value)
    if not len(labels):
        return result
    num_ids = int(labels.max()) + 1
    pairs, counts = torch.unique(voxel_of * num_ids + labels, return_counts=True)
    voxels, ids = pairs // num_ids, pairs % num_ids
    # One number that is larger for a more frequent label, and then for a smaller id.
    rank = counts * num_ids + (num_ids - 1 - ids)
    best = labels.new_full((num_voxels,), -1).scatter_reduce(0, voxels, rank, "amax")
    return torch.where(best < 0, result, num_ids - 1 - best % num_ids)
