"""Probabilities of one class after the other, for losses that are sums over classes."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sar.losses.maps import upsample
from sar.ops.upsampled_cross_entropy import upsampled_cross_entropy


class ClassProbabilities:
    """Softmax of upsampled logits, one class at a time.

    The probabilities of all classes are never stored together. That map is stride^2 times larger
    than the logits. What stays for the backward pass is one number per pixel, log sum_k exp(z_k).

    Args:
        logits: (N, K, h, w) float32 or float64.
        targets: (N, H, W) labels, for their shape.
        stride: H / h rounded up.
    """

    def __init__(self, logits: Tensor, targets: Tensor, stride: int):
        self.targets = targets
        self.stride = stride
        # Not slices: in the backward pass, each slice would write a gradient of all classes.
        self.logits = logits.unbind(1)
        # With label 0 everywhere, the cross-entropy of a pixel is log sum_k exp(z_k) - z_0.
        entropy = upsampled_cross_entropy(logits, torch.zeros_like(targets), stride, -1)
        self.log_sums = entropy + self._upsample(self.logits[0])

    def of(self, k: int) -> Tensor:
        """Return the probabilities (N, H, W) of class k."""
        return self._probabilities(self.logits[k], self.log_sums)

    def reduce(self, k: int, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `function` of the probabilities (N, H, W) of class k.

        Nothing of this computation is stored. The backward pass computes it again.
        """
        return checkpoint(
            lambda logits, log_sums: function(self._probabilities(logits, log_sums)),
            self.logits[k],
            self.log_sums,
            use_reentrant=False,
            preserve_rng_state=False,
        )

    def _probabilities(self, logits: Tensor, log_sums: Tensor) -> Tensor:
        return (self._upsample(logits) - log_sums).exp()

    def _upsample(self, logits: Tensor) -> Tensor:
        return upsample(logits[:, None], self.stride, self.targets)[:, 0]
