"""The logit-adjusted loss."""

import torch
from torch import nn

from sar.losses.cross_entropy import CrossEntropy
from sar.losses.maps import as_maps


class LogitAdjustment(nn.Module):
    """Cross-entropy of logits + tau * log(prior), in training only.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021. The prior of a class is its
    share of the labelled training pixels. A class without a pixel counts as one pixel, since log(0)
    does not exist.

    Args:
        pixels: (K,) training pixels of each class.
        ignore_value: label of pixels that do not count.
        tau: strength. 1 is consistent with the balanced error, 0 is plain cross-entropy.
        fused: as in `CrossEntropy`.

    Example::

        >>> criterion = LogitAdjustment(torch.tensor([9000, 900, 100]), ignore_value=255)
        >>> logits, labels = torch.zeros(2, 3, 8, 8), torch.full((2, 32, 32), 2)
        >>> round(criterion(logits, labels, stride=4).item(), 4)  # -log(0.01)
        4.6052
    """

    def __init__(
        self, pixels: torch.Tensor, ignore_value: int, tau: float = 1.0, *, fused: bool = False
    ):
        super().__init__()
        self.cross_entropy = CrossEntropy(ignore_value, fused=fused)
        pixels = pixels.double().clamp(min=1)
        adjustment = (tau * (pixels / pixels.sum()).log()).float()
        self.register_buffer("adjustment", adjustment, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, stride: int = 1) -> torch.Tensor:
        """Return the scalar loss of logits (N, K, h, w) at a stride and labels (N, H, W)."""
        logits, targets = as_maps(logits, targets)
        # Interpolation weights sum to 1, so a constant may be added before the upsampling.
        return self.cross_entropy(logits + self.adjustment[:, None, None], targets, stride)
