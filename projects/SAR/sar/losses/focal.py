"""Focal loss, on pixels."""

import torch

from sar.losses.cross_entropy import CrossEntropy


class Focal(CrossEntropy):
    """Focal loss with a softmax: cross-entropy with less weight on pixels that are easy.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eqs. 4 and 5. The paper has one
    sigmoid per class. Here p_i is the softmax probability of the label of pixel i:

        L = -sum_i w_(y_i) (1 - p_i)^gamma log p_i / sum_i w_(y_i)

    over the valid pixels i of all processes. The class weights w are the paper's alpha. With gamma
    0, the loss is `CrossEntropy`.

    Args:
        ignore_value: label of pixels that do not count.
        gamma: 0 or more. The paper recommends 2.
        weights, fused: as in `CrossEntropy`.

    Example::

        >>> criterion = Focal(ignore_value=255)
        >>> logits, labels = torch.zeros(2, 3, 8, 8), torch.randint(3, (2, 32, 32))
        >>> round(criterion(logits, labels, stride=4).item(), 4)  # (2 / 3)^2 log(3)
        0.4883
    """

    def __init__(
        self,
        ignore_value: int,
        gamma: float = 2.0,
        weights: torch.Tensor | None = None,
        *,
        fused: bool = False,
    ):
        super().__init__(ignore_value, weights, fused=fused)
        self.gamma = gamma

    def forward(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        stride: int = 1,
        pixel_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the scalar loss, as in `CrossEntropy`."""
        return self.weighted_mean(logits, targets, stride, pixel_weights)

    def unweighted_losses(
        self, logits: torch.Tensor, targets: torch.Tensor, stride: int
    ) -> torch.Tensor:
        """Return (1 - p_i)^gamma ce_i as (N, H, W), with 0 at ignored pixels."""
        losses = super().unweighted_losses(logits, targets, stride)
        # Powers below 1 have no finite gradient at 0.
        errors = (1 - (-losses).exp()).clamp(min=torch.finfo(losses.dtype).tiny)
        return errors**self.gamma * losses
