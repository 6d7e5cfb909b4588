"""Cross-entropy of upsampled logits that never stores the upsampled logits.

A head gives logits at a stride, but its loss needs them at every pixel. That map is stride^2 times
larger, and the usual computation stores three or four copies of it. Here one part of the map at a
time is computed, used and dropped: once for the losses and once for their gradient. Only the loss
of each pixel is stored, and with Triton one more number.

Expected cost for P = N * H * W pixels: P * K exponentials and interpolations in each pass, in the
cache. The memory traffic is 2 P * K / stride^2 + 5 P floats. The usual computation moves about
10 P * K.

Shape shorthands: N images, K classes, h x w the resolution of the logits, H x W of the labels.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sar.ops.backend import choose_backend


def upsampled_cross_entropy(
    logits: Tensor, labels: Tensor, stride: int, ignore_value: int
) -> Tensor:
    """Return the cross-entropy of each pixel, from logits before the upsampling.

    The result equals, up to rounding,

        logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
        F.cross_entropy(logits[..., :H, :W], labels, ignore_index=ignore_value, reduction="none")

    It is differentiable in the logits, once. On a GPU, Triton computes it if it works, and the host
    never waits. Otherwise PyTorch computes it.

    Args:
        logits: (N, K, h, w) float32 or float64.
        labels: (N, H, W) int64, with H <= h * stride and W <= w * stride.
        stride: an integer, at least 1.
        ignore_value: label of pixels that do not count. Their loss is 0.

    Returns:
        (N, H, W) in the logits' precision.

    Raises:
        ValueError: labels of another number of images, or larger than the upsampled logits.
    """
    (num_images, _, *coarse), size = logits.shape, labels.shape
    if size[0] != num_images or any(a > b * stride for a, b in zip(size[1:], coarse, strict=True)):
        raise ValueError(
            f"labels of shape {tuple(size)} do not go with logits of shape {tuple(logits.shape)} "
            f"at stride {stride}"
        )
    if labels.numel() == 0:  # an empty tensor that has a graph
        return logits.sum() + logits.new_zeros(size)
    return _UpsampledCrossEntropy.apply(logits, labels, stride, ignore_value)


class _UpsampledCrossEntropy(torch.autograd.Function):
    """See `upsampled_cross_entropy`."""

    @staticmethod
    def forward(ctx, logits, labels, stride, ignore_value):
        logits, labels = logits.contiguous(), labels.contiguous()
        ctx.settings = (stride, ignore_value)
        losses, *others = choose_backend(__name__, logits.device).forward(
            logits, labels, *ctx.settings
        )
        ctx.save_for_backward(logits, labels, *others)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        logits, *others = ctx.saved_tensors
        backward = choose_backend(__name__, logits.device).backward
        return backward(logits, *others, grad_output, *ctx.settings), None, None, None
