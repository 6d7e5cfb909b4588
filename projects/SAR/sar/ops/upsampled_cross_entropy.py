"""Cross-entropy of upsampled logits that never holds the upsampled logits.

A head gives its logits at a stride, and its loss asks for them at every pixel: for a map stride^2
times as large, of which the plain way holds three or four copies. Here a part of the map at a time
is made, used and forgotten, once for the losses and once more for their gradient; what is kept of
it is the loss of each pixel, and with Triton one more number.

On paper, of P = N * H * W pixels: P * K exponentials and mixes of neighbours each way, in a cache.
To and from memory go the logits, their gradient and a few numbers a pixel: 2 P * K / stride^2 + 5 P
floats, where the plain way moves about 10 P * K.

Shape shorthands: N images, K classes, h x w the resolution of the logits, H x W of the labels.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sar.ops.backend import choose_backend


def upsampled_cross_entropy(
    logits: Tensor, labels: Tensor, stride: int, ignore_value: int
) -> Tensor:
    """The cross-entropy of each pixel, of logits that are yet to be upsampled.

    Equal, to rounding, to

        logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
        F.cross_entropy(logits[..., :H, :W], labels, ignore_index=ignore_value, reduction="none")

    Differentiable in the logits, once. On a GPU, Triton computes it where it works, and the host
    waits for nothing; elsewhere PyTorch does.

    Args:
        logits: (N, K, h, w) float32 or float64.
        labels: (N, H, W) int64, with H <= h * stride and W <= w * stride.
        stride: an integer, at least 1.
        ignore_value: label of pixels that do not count; their loss is 0.

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
