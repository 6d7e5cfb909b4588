"""Several losses of the same logits."""

from collections.abc import Mapping

import torch
from torch import nn


class WeightedSum(nn.Module):
    """Weighted sum of several losses of the same logits.

    Args:
        terms: (factor, criterion) of each loss, by its name.

    Example::

        >>> from sar.losses import CrossEntropy, Dice
        >>> criterion = WeightedSum({"ce": (1.0, CrossEntropy(255)), "dice": (0.5, Dice(255))})
        >>> logits, labels = torch.zeros(2, 4, 8, 8), torch.zeros(2, 32, 32, dtype=torch.int64)
        >>> round(criterion(logits, labels, stride=4).item(), 4)
        1.6863
        >>> round(criterion.terms(logits, labels, stride=4)["dice"].item(), 4)
        0.3
    """

    def __init__(self, terms: Mapping[str, tuple[float, nn.Module]]):
        super().__init__()
        self.factors = {name: factor for name, (factor, _) in terms.items()}
        self.criteria = nn.ModuleDict({name: criterion for name, (_, criterion) in terms.items()})

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, stride: int = 1, **options
    ) -> torch.Tensor:
        """Return the scalar loss of logits (N, K, h, w) at a stride and labels (N, H, W).

        Args:
            options: further arguments of each criterion.
        """
        return sum(self.terms(logits, targets, stride, **options).values())

    def terms(
        self, logits: torch.Tensor, targets: torch.Tensor, stride: int = 1, **options
    ) -> dict[str, torch.Tensor]:
        """Return the terms of the sum, factor * loss, by name."""
        return {
            name: self.factors[name] * criterion(logits, targets, stride, **options)
            for name, criterion in self.criteria.items()
        }
