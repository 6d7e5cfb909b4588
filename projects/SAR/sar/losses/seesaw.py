"""Seesaw loss, on pixels."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from sar.losses.cross_entropy import CrossEntropy
from sar.losses.maps import as_maps, upsample
from sar.ops.class_sums import class_counts
from sar.ops.over_processes import sum_over_processes

_MIN_SCORE = 0.01


class Seesaw(nn.Module):
    """Seesaw loss, with pixels in the place of the paper's instances.

    Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021. For a pixel with
    label i, logits z and softmax s:

        L = -log(exp(z_i) / (exp(z_i) + sum_(j != i) M_ij C_ij exp(z_j)))
        M_ij = min(1, N_j / N_i)^p      mitigation: pixels of i push a rarer class j down less
        C_ij = max(1, s_j / s_i)^q      compensation: more push if i is mistaken for j

    The loss is the mean over the valid pixels of all processes. M and C have no gradient. As in the
    authors' code, s_i is at least 0.01 in C. N_k is the number of pixels of class k that training
    has shown up to and including this step, and at least 1. It counts the pixels of all processes.
    In evaluation mode, it stays as it is.
    The buffer `pixels_seen` holds N in the checkpoint, so a resumed run continues with it. The
    paper's normalised linear layer is not included: the head's classifier stays as it is.

    Args:
        num_classes: K.
        ignore_value: label of pixels that do not count.
        p, q: exponents of mitigation and compensation. 0 turns one off.

    Example::

        >>> criterion = Seesaw(num_classes=3, ignore_value=255)
        >>> logits, labels = torch.zeros(2, 3, 8, 8), torch.zeros(2, 32, 32, dtype=torch.int64)
        >>> loss = criterion(logits, labels, stride=4)
        >>> criterion.pixels_seen
        tensor([2048,    0,    0])
    """

    def __init__(self, num_classes: int, ignore_value: int, *, p: float = 0.8, q: float = 2.0):
        super().__init__()
        self.cross_entropy = CrossEntropy(ignore_value)
        self.p, self.q = p, q
        self.register_buffer("pixels_seen", torch.zeros(num_classes, dtype=torch.int64))

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, stride: int = 1) -> torch.Tensor:
        """Return the scalar loss of logits (N, K, h, w) at a stride and labels (N, H, W)."""
        logits, targets = as_maps(logits, targets)
        logits = upsample(logits, stride, targets)
        ignore_value = self.cross_entropy.ignore_value
        if self.training:
            counts = class_counts(targets, len(self.pixels_seen), ignore_value)
            self.pixels_seen += sum_over_processes(counts)
        classes = targets.where(targets != ignore_value, 0)
        log_factors = self._log_factors(logits.detach(), classes)
        return self.cross_entropy(logits + log_factors, targets)

    def _log_factors(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return log(M_ij C_ij) for the class i of each pixel and every j. It is 0 at j = i."""
        log_scores = F.log_softmax(logits, dim=1)
        log_own = log_scores.gather(1, classes[:, None]).clamp(min=math.log(_MIN_SCORE))
        log_compensation = (log_scores - log_own).clamp_(min=0).mul_(self.q)
        log_seen = self.pixels_seen.clamp(min=1).to(logits.dtype).log()
        log_ratios = log_seen[:, None, None] - log_seen[classes][:, None]
        return log_compensation.add_(log_ratios.clamp_(max=0), alpha=self.p)
