"""Counts and sums by class.

Shape shorthands: N samples, C embedding channels, L pixels or points of a sample, K classes.
"""

import torch


def class_counts(labels: torch.Tensor, num_classes: int, ignore_value: int) -> torch.Tensor:
    """Return the number (K,) of labels of each class, in int64.

    Args:
        labels: int64 of any shape, class ids in [0, K), or `ignore_value`.
        num_classes: K.
        ignore_value: label of pixels that do not count.
    """
    return _count(_index(labels, num_classes, ignore_value), num_classes)


def class_sums(
    vectors: torch.Tensor, labels: torch.Tensor, num_classes: int, ignore_value: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum and the number of the vectors of each class, 0 for a class that is absent.

    Differentiable in the vectors.

    Args:
        vectors: (N, C, L) float.
        labels: (N, L) int64 class ids in [0, K), or `ignore_value`.
        num_classes: K.
        ignore_value: label of pixels that do not count.

    Returns:
        (K, C) sums in the vectors' precision, (K,) int64 counts.
    """
    index = _index(labels, num_classes, ignore_value)
    # Channel by channel, in the order of memory: no temporary has the size of the vectors.
    sums = vectors.new_zeros(*vectors.shape[:2], num_classes + 1)
    sums = sums.scatter_add(2, index[:, None, :].expand(-1, vectors.shape[1], -1), vectors)
    return sums[..., :-1].sum(dim=0).T, _count(index, num_classes)


def _index(labels: torch.Tensor, num_classes: int, ignore_value: int) -> torch.Tensor:
    # Ignored pixels go to an extra row after the last class. An unknown id goes beyond that row: it
    # is out of bounds and raises an error.
    return torch.where(labels == ignore_value, num_classes, labels + (labels >= num_classes))


def _count(index: torch.Tensor, num_classes: int) -> torch.Tensor:
    # bincount would make the host wait for a GPU.
    counts = index.new_zeros(num_classes + 1)
    counts.scatter_add_(0, index.flatten(), index.new_ones(()).expand(index.numel()))
    return counts[:-1]
