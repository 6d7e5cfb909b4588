"""Means of the embeddings of each class, and their memory over the steps of a training.

Shape shorthands: N samples, C embedding channels, L pixels or points of a sample, K classes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from sar.ops.class_sums import class_sums
from sar.ops.over_processes import sum_over_processes
from sar.regularizers.arguments import check_share


def class_means(
    vectors: torch.Tensor, labels: torch.Tensor, num_classes: int, ignore_value: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean vector of each class over the batch of all processes.

    Differentiable in the vectors.

    Args:
        vectors: (N, C, L) float.
        labels: (N, L) int64 class ids in [0, K), or `ignore_value`.
        num_classes: K.
        ignore_value: label of pixels that do not count.

    Returns:
        (K, C) means, 0 for a class that is absent, and (K,) numbers of vectors, as floats.
    """
    sums, counts = class_sums(vectors, labels, num_classes, ignore_value)
    totals = sum_over_processes(torch.cat([sums, counts[:, None].to(sums.dtype)], dim=1))
    counts = totals[:, -1].detach()
    return totals[:, :-1] / counts.clamp(min=1)[:, None], counts


class PrototypeMemory(nn.Module):
    """Exponential moving average of the class means, one prototype for each class.

    The first mean of a class is its first prototype: P_k = m_k. Later, in steps that show the
    class, P_k = momentum * P_k + (1 - momentum) * m_k.

    Args:
        num_classes: K.
        embed_dim: C.
        momentum: in [0, 1].
        unit_length: normalize means and prototypes to length 1.

    Raises:
        ValueError: momentum out of range.
    """

    def __init__(
        self, num_classes: int, embed_dim: int, momentum: float, *, unit_length: bool = False
    ):
        super().__init__()
        check_share("momentum", momentum)
        self.momentum = momentum
        self.unit_length = unit_length
        self.register_buffer("prototypes", torch.zeros(num_classes, embed_dim))
        self.register_buffer("is_known", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, means: torch.Tensor, counts: torch.Tensor) -> None:
        """Move the prototypes of the classes present, given `class_means` of this step."""
        if self.unit_length:
            means = F.normalize(means, dim=1)
        moved = torch.lerp(means, self.prototypes, self.momentum)
        if self.unit_length:
            moved = F.normalize(moved, dim=1)
        updated = torch.where(self.is_known[:, None], moved, means)
        is_present = counts > 0
        self.prototypes.copy_(torch.where(is_present[:, None], updated, self.prototypes))
        self.is_known.logical_or_(is_present)
