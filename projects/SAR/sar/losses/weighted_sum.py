"""Several losses of the same logits."""

from collections.abc import Mapping

import torch
from torch import nn


class WeightedSum(nn.Module):
    """Several losses of the same logits, each with a factor.

    Args:
        terms: (factor, criterion) of each loss, by its name.

    Example::

        >>> from sar.losses import CrossEntropy, Dice
        >>> criterion = WeightedSum({"ce": (1.0, CrossEntropy(255)), "dice": (0.5, Dice(255))})
        >>> logits, labels = torch.zeros(2, 4, 8, 8), torch.zeros(2, 32, 32, dtype=torch.int64)
        >>> {name: round(loss.item(), 2) for name, loss in criterion(logits, labels, 4).items()}
        {'ce': 1.39, 'dice': 0.3}
    """

    def __init__(self, terms: Mapping[str, tuple[float, nn.Module]]):
        super().__init__()
        self.factors = {name: factor for name, (factor, _) in terms.items()}
        self.criteria = nn.ModuleDict({name: criterion for name, (_, criterion) in terms.items()})

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, stride: int = 1, **options
    ) -> dict[str, torch.Tensor]:
        """Return factor * loss of each criterion, by its name. Their sum is the loss to minimize.

        Args:
            logits, targets, stride, options: arguments of each criterion.
        """
        return {
            name: self.factors[name] * criterion(logits, targets, stride, **options)
            for name, criterion in self.criteria.items()
        }
