"""Probabilities of one class after the other, for losses that are sums over classes."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
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

    def sum_over(
        self, classes: Iterable[int], function: Callable[[int, Tensor], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Return the sum of a function of the probabilities, over classes.

        The gradient is computed at once, for one class after the other. Only its sum is stored.

        Args:
            function: takes a class k and its probabilities (N, H, W). Returns a scalar and its
                derivatives (N, H, W) by the probabilities.
        """
        return _SumOverClasses.apply(self._upsample, classes, function, self.log_sums, *self.logits)

    def _probabilities(self, logits: Tensor, log_sums: Tensor) -> Tensor:
        return (self._upsample(logits) - log_sums).exp()

    def _upsample(self, logits: Tensor) -> Tensor:
        return upsample(logits[:, None], self.stride, self.targets)[:, 0]


class _SumOverClasses(torch.autograd.Function):
    """See `ClassProbabilities.sum_over`."""

    @staticmethod
    def forward(ctx, upsample, classes, function, log_sums, *logits):
        total = log_sums.new_zeros(())
        if not any(ctx.needs_input_grad):
            for k in classes:
                total += function(k, (upsample(logits[k]) - log_sums).exp_())[0]
            return total
        gradients = [torch.zeros_like(log_sums), *([None] * len(logits))]
        for k in classes:
            leaf = logits[k].detach().requires_grad_()
            with torch.enable_grad():
                upsampled = upsample(leaf)
            probabilities = (upsampled.detach() - log_sums).exp_()
            value, slopes = function(k, probabilities)
            total += value
            slopes = probabilities.mul_(slopes)  # by the upsampled logits
            gradients[0] -= slopes
            (gradients[k + 1],) = torch.autograd.grad(upsampled, leaf, slopes)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, factor):
        gradients = (each if each is None else factor * each for each in ctx.saved_tensors)
        return None, None, None, *gradients
