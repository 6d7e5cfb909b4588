"""Cross-entropy of logits at a stride, as a mean over the valid pixels of all processes.

Shape shorthands: N images, K classes, h x w the resolution of the logits, H x W of the labels.
"""

import torch
import torch.nn.functional as F
from torch import nn

from sar.losses.maps import as_maps, upsample
from sar.ops.over_processes import mean_over_processes
from sar.ops.upsampled_cross_entropy import upsampled_cross_entropy


class CrossEntropy(nn.Module):
    """Cross-entropy, with or without class weights.

    The loss is sum_i w_(y_i) ce_i / sum_i w_(y_i) over the valid pixels i of all processes, as in
    `F.cross_entropy`. If no pixel is valid, the loss and its gradient are 0, and not NaN.

    Args:
        ignore_value: label of pixels that do not count.
        weights: (K,) class weights.
        fused: never store the upsampled logits (see `upsampled_cross_entropy`). If False, the loss
            of one process equals `F.cross_entropy` bit for bit.

    Example::

        >>> criterion = CrossEntropy(ignore_value=255, weights=torch.tensor([0.5, 1.0, 4.0]))
        >>> logits, labels = torch.zeros(2, 3, 8, 8), torch.randint(3, (2, 32, 32))
        >>> round(criterion(logits, labels, stride=4).item(), 4)  # log(3)
        1.0986
    """

    def __init__(
        self, ignore_value: int, weights: torch.Tensor | None = None, *, fused: bool = False
    ):
        super().__init__()
        self.ignore_value = ignore_value
        self.fused = fused
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        stride: int = 1,
        pixel_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the scalar loss of logits (N, K, h, w) at a stride and labels (N, H, W).

        Args:
            logits, targets: (M, K) and (M,) for samples such as points.
            pixel_weights: (N, H, W) factors of the weights w_(y_i), as Panoptic-DeepLab has them.
        """
        if self.fused or pixel_weights is not None:
            return self.weighted_mean(logits, targets, stride, pixel_weights)
        logits, targets = as_maps(logits, targets)
        weights = self.pixel_weights(targets)
        mean = F.cross_entropy(
            upsample(logits, stride, targets),
            # If all weights are 0, F.cross_entropy has a gradient of 0 / 0.
            targets.where(weights > 0, self.ignore_value),
            None if self.weights is None else self.weights.to(logits.dtype),
            ignore_index=self.ignore_value,
        )
        return mean_over_processes(mean, weights.sum())

    def weighted_mean(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        stride: int,
        pixel_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the sum of `pixel_losses` over all processes, divided by the sum of weights."""
        logits, targets = as_maps(logits, targets)
        weights = self.pixel_weights(targets)
        if pixel_weights is not None:
            weights = weights * pixel_weights
        total = self.pixel_losses(logits, targets, stride, pixel_weights).sum()
        weight = weights.sum()
        mean = total / weight.clamp(min=torch.finfo(torch.float32).tiny)
        return mean_over_processes(mean, weight)

    def pixel_losses(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        stride: int,
        pixel_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return w_(y_i) ce_i as (N, H, W), with 0 at ignored pixels, times `pixel_weights`."""
        losses = self.unweighted_losses(logits, targets, stride)
        if self.weights is not None:
            losses = losses * self.pixel_weights(targets)
        return losses if pixel_weights is None else losses * pixel_weights

    def unweighted_losses(
        self, logits: torch.Tensor, targets: torch.Tensor, stride: int
    ) -> torch.Tensor:
        """Return ce_i as (N, H, W), with 0 at ignored pixels."""
        if self.fused:
            return upsampled_cross_entropy(logits, targets, stride, self.ignore_value)
        return F.cross_entropy(
            upsample(logits, stride, targets),
            targets,
            ignore_index=self.ignore_value,
            reduction="none",
        )

    def pixel_weights(self, targets: torch.Tensor) -> torch.Tensor:
        """Return w_(y_i) as (N, H, W), with 0 at ignored pixels."""
        valid = targets != self.ignore_value
        return valid if self.weights is None else valid * self.weights[targets.where(valid, 0)]
