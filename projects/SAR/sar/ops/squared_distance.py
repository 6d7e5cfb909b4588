"""The mean squared distance of embeddings to the anchors of their classes, in one pass.

Shape shorthands: N samples, C embedding channels, L pixels or points of a sample, K classes.

Memory traffic limits the speed. The pass reads the embeddings and writes their gradient: 2 N C L
values (3 N C L on a CPU, which fetches memory before it writes it). Labels (N L) and anchors (K C)
are small. The computation takes only four operations per value. New memory costs a CPU several
times more than the computation in it. So the gradient is the only new map of the embeddings' size.
All other values stay in the cache (`squared_distance_pytorch`) or in registers
(`squared_distance_triton`).
"""

from types import ModuleType

import torch
from torch.autograd.function import once_differentiable

from sar.ops import squared_distance_pytorch
from sar.ops.backend import choose_backend
from sar.ops.class_sums import class_counts
from sar.ops.over_processes import num_processes, sum_over_processes

# The distance is a mean over pixels or over classes.
PIXELS, CLASSES = "pixels", "classes"


def mean_squared_distance(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    anchors: torch.Tensor,
    ignore_value: int,
    weight: float = 1.0,
    over: str = PIXELS,
) -> torch.Tensor:
    """Return `weight` times the mean over valid pixels and channels of (e - anchor of its class)^2.

    Over CLASSES, it is the mean over the classes present of their means over pixels. It is 0
    without a valid pixel. It is differentiable in the embeddings only.

    In distributed training, the mean of the returned values over processes is the value of the
    whole batch. The same holds for gradients that are averaged over processes.

    On a GPU, the host never waits. Triton computes the result if it works.

    Args:
        embeddings: (N, C, *) float.
        labels: (N, *) int64 class ids in [0, K), or `ignore_value`.
        anchors: (K, C), in float32 or float64: the precision of the computation.
        ignore_value: label of pixels that do not count.
        weight: factor of the result. As an argument it costs no pass over the gradient.
        over: PIXELS or CLASSES.

    Returns:
        Scalar in the anchors' precision. Over PIXELS, an unknown label gives NaN if Triton computes
        it.

    Raises:
        RuntimeError: an unknown label, if PyTorch computes the result.
    """
    if not (embeddings.is_contiguous() or _channels_are_last(embeddings)):
        embeddings = embeddings.contiguous()
    labels = labels.reshape(as_vectors(embeddings).shape[::2]).contiguous()
    if over == CLASSES:
        counts = sum_over_processes(class_counts(labels, len(anchors), ignore_value))
        num_present = (counts > 0).sum().clamp(min=1)
        divisors = counts.clamp(min=1) * num_present
    else:
        count = _backend(labels, anchors.dtype).count_valid(labels, ignore_value)
        divisors = sum_over_processes(count).clamp(min=1).squeeze()
    weight = weight * num_processes() / embeddings.shape[1]
    shares = 1 / divisors.to(anchors.dtype)
    return _SquaredDistance.apply(embeddings, labels, anchors, ignore_value, shares, weight)


class _SquaredDistance(torch.autograd.Function):
    """See `squared_distance_pytorch`. The forward pass writes the gradient."""

    @staticmethod
    def forward(ctx, embeddings, labels, anchors, ignore_value, shares, weight):
        anchors = anchors.clone()  # the caller may change its anchors before the backward pass
        ctx.save_for_backward(embeddings, labels, anchors, shares)
        ctx.constants = {"ignore_value": ignore_value, "weight": weight}
        # In float16, a gradient that is divided by the number of pixels and not yet multiplied by a
        # loss scale is too small. It is computed in the backward pass.
        is_early = ctx.needs_input_grad[0] and embeddings.dtype != torch.float16
        ctx.gradient = torch.empty_like(embeddings) if is_early else None
        return _compute(embeddings, labels, anchors, shares, ctx.gradient, **ctx.constants)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        # No reference is kept, so autograd may add to the gradient in place.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is not None:
            _backend(gradient, grad_output.dtype).multiply_(gradient, grad_output)
        else:  # float16, or a second backward pass through the same graph
            embeddings, *others = ctx.saved_tensors
            gradient = torch.empty_like(embeddings)
            _compute(embeddings, *others, gradient, **ctx.constants, grad_output=grad_output)
        return gradient, None, None, None, None, None


def _compute(embeddings, labels, anchors, shares, gradient, **others) -> torch.Tensor:
    if gradient is not None:
        gradient = as_vectors(gradient)
    return _backend(embeddings, anchors.dtype).squared_distance(
        as_vectors(embeddings), labels, anchors, shares, gradient, **others
    )


def as_vectors(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view (N, C, L) of (N, C, *), or (1, C, N * L) if channels are last in memory."""
    if _channels_are_last(tensor):
        return tensor.movedim(1, -1).reshape(-1, tensor.shape[1]).T[None]
    return tensor.flatten(2)


def _channels_are_last(tensor: torch.Tensor) -> bool:
    return tensor.movedim(1, -1).is_contiguous()


def _backend(tensor: torch.Tensor, precision: torch.dtype) -> ModuleType:
    # The kernels compute in float32, and a grid of no block cannot be launched.
    if precision == torch.float32 and tensor.numel():
        return choose_backend(__name__, tensor.device)
    return squared_distance_pytorch
