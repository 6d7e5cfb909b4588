"""From points to voxels: means of features, and labels by majority.

Shape shorthands: P points, V voxels, C channels.
"""

import torch


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
