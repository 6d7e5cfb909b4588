"""Soft Dice loss over the classes of a batch."""

import torch
from torch import Tensor, nn

from sar.losses.class_probabilities import ClassProbabilities
from sar.losses.maps import as_maps
from sar.ops.class_sums import class_counts
from sar.ops.over_processes import sum_over_processes


class Dice(nn.Module):
    """Soft Dice loss: a mean over classes, whatever their size.

    With softmax probabilities p_ik and the ground truth g_ik in {0, 1}:

        L = mean over k of 1 - 2 sum_i p_ik g_ik / (sum_i p_ik + sum_i g_ik)

    The sums go over the valid pixels of all images of all processes. The mean goes over the
    classes with ground truth in this batch; without ground truth, a class always has the loss 1.
    All processes return the same value. If no pixel is valid, it is 0.

    Milletari et al., "V-Net", 3DV 2016, introduced the loss for two classes, with squared
    probabilities in the denominator. This form has no squares and no smoothing, as in Sudre et al.,
    "Generalised Dice Overlap", DLMIA 2017, eq. for DL_2 with one term per class.

    The class weights of other losses do not exist here: each class counts the same.

    Args:
        ignore_value: label of pixels that do not count.

    Example::

        >>> criterion = Dice(ignore_value=255)
        >>> logits, labels = torch.zeros(2, 4, 8, 8), torch.zeros(2, 32, 32, dtype=torch.int64)
        >>> round(criterion(logits, labels, stride=4).item(), 4)  # 1 - 2 * 0.25 / (0.25 + 1)
        0.6
    """

    def __init__(self, ignore_value: int):
        super().__init__()
        self.ignore_value = ignore_value

    def forward(self, logits: Tensor, targets: Tensor, stride: int = 1) -> Tensor:
        """Return the scalar loss of logits (N, K, h, w) at a stride and labels (N, H, W)."""
        logits, targets = as_maps(logits, targets)
        num_classes = logits.shape[1]
        probabilities = ClassProbabilities(logits, targets, stride)
        classes = targets.where(targets != self.ignore_value, -1)
        sums = [_sums(probabilities, classes, k) for k in range(num_classes)]
        predicted, overlaps = sum_over_processes(torch.stack(sums, dim=1))
        sizes = sum_over_processes(class_counts(targets, num_classes, self.ignore_value))
        is_present = sizes > 0
        scores = 2 * overlaps / (predicted + sizes).where(is_present, 1)
        return (1 - scores).where(is_present, 0).sum() / is_present.sum().clamp(min=1)


def _sums(probabilities: ClassProbabilities, classes: Tensor, k: int) -> Tensor:
    """Return the sums (2,) of p_k over the valid pixels, and over the pixels of class k.

    Args:
        classes: (N, H, W) labels, -1 at ignored pixels.
    """

    def sums(p: Tensor) -> Tensor:
        return torch.stack([p.where(classes >= 0, 0).sum(), p.where(classes == k, 0).sum()])

    return probabilities.reduce(k, sums)
