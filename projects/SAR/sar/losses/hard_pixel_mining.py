"""Cross-entropy of the hardest pixels only."""

import torch

from sar.losses.cross_entropy import CrossEntropy
from sar.losses.maps import as_maps


class HardPixelMining(CrossEntropy):
    """Mean cross-entropy of the pixels with the highest loss, as in detectron2's DeepLabCE.

    A share `top_k` of all pixels is taken, at least one, by the weighted loss w_(y_i) ce_i. An
    ignored pixel counts as a pixel with a loss of 0. As in detectron2, each process takes the
    hardest pixels of its own images, so the loss depends on how a batch is split over processes.

    Args:
        ignore_value: label of pixels that do not count.
        top_k: share of the pixels to take, in (0, 1].
        weights, fused: as in `CrossEntropy`.

    Example::

        >>> criterion = HardPixelMining(ignore_value=255, top_k=0.25)
        >>> logits, labels = torch.zeros(2, 3, 8, 8), torch.randint(3, (2, 32, 32))
        >>> round(criterion(logits, labels, stride=4).item(), 4)
        1.0986
    """

    def __init__(
        self,
        ignore_value: int,
        top_k: float,
        weights: torch.Tensor | None = None,
        *,
        fused: bool = False,
    ):
        super().__init__(ignore_value, weights, fused=fused)
        self.top_k = top_k

    def forward(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        stride: int = 1,
        pixel_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `CrossEntropy`. The factors `pixel_weights` decide with which pixels are hardest."""
        logits, targets = as_maps(logits, targets)
        losses = self.pixel_losses(logits, targets, stride, pixel_weights).flatten()
        if self.top_k < 1:
            losses = losses.topk(max(1, int(self.top_k * losses.numel()))).values
        return losses.mean()
