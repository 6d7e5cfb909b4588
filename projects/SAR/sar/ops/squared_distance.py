"""The distance of embeddings to the anchors of their classes, in one pass over them.

Shape shorthands: N samples, C embedding channels, L pixels or points of a sample, K classes.

What must be moved: the embeddings are read and their gradient is written, 2 N C L values (on a CPU
3 N C L: memory is fetched before it is written); beside them labels (N L) and anchors (K C) are
small. What must be computed: four operations a value. So it is memory that counts, the more so as
fresh memory costs a CPU several times what is computed in it. Here one map of the embeddings' size
is made, their gradient; all else stays in the cache (`squared_distance_pytorch`) or in registers
(`squared_distance_triton`).
"""

from types import ModuleType

import torch
from torch.autograd.function import once_differentiable

from sar.ops import squared_distance_pytorch
from sar.ops.backend import choose_backend
from sar.ops.class_sums import class_counts
from sar.ops.over_processes import num_processes, sum_over_processes

# What the distance is averaged over.
PIXELS, CLASSES = "pixels", "classes"


def mean_squared_distance(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    anchors: torch.Tensor,
    ignore_value: int,
    weight: float = 1.0,
    over: str = PIXELS,
) -> torch.Tensor:
    """`weight` times the mean over valid pixels and channels of (e - anchor of its class)^2.

    Over CLASSES, it is the mean over the classes present of their means over pixels. 0 with no
    valid pixel. Differentiable in the embeddings only. Where training is distributed, what the sum
    of this process is divided by is of the whole batch, and what a process has on average: the mean
    of the processes' values is that of the whole batch, and so are gradients averaged over them.

    On a GPU the host waits for nothing, and Triton computes where it works.

    Args:
        embeddings: (N, C, *) float.
        labels: (N, *) int64 class ids in [0, K), or `ignore_value`.
        anchors: (K, C), in float32 or float64: the precision of the computation.
        ignore_value: label of pixels that do not count.
        weight: given here, it costs no pass over the gradient.
        over: PIXELS or CLASSES.

    Returns:
        Scalar in the anchors' precision. With an unknown label, over PIXELS, it is NaN where Triton
        computes it.

    Raises:
        RuntimeError: an unknown label, where PyTorch computes it.
    """
    if not (embeddings.is_contiguous() or _channels_are_last(embeddings)):
        embeddings = embeddings.contiguous()
    labels = labels.reshape(as_vectors(embeddings).shape[::2]).contiguous()
    if over == CLASSES:
        counts = sum_over_processes(class_counts(labels, len(anchors), ignore_value))
        num_present = (counts > 0).sum().clamp(min=1)
        divisors = counts.clamp(min=1) * num_present
    else:
        count = _backend(labels.device, anchors.dtype).count_valid(labels, ignore_value)
        divisors = sum_over_processes(count).clamp(min=1).squeeze()
    weight = weight * num_processes() / embeddings.shape[1]
    shares = 1 / divisors.to(anchors.dtype)
    return _SquaredDistance.apply(embeddings, labels, anchors, ignore_value, shares, weight)


class _SquaredDistance(torch.autograd.Function):
    """As `squared_distance_pytorch`. The gradient is written in the forward pass."""

    @staticmethod
    def forward(ctx, embeddings, labels, anchors, ignore_value, shares, weight):
        anchors = anchors.clone()  # the caller's may have moved on before the backward pass
        ctx.save_for_backward(embeddings, labels, anchors, shares)
        ctx.constants = {"ignore_value": ignore_value, "weight": weight}
        # Divided by the number of pixels and not yet multiplied by a loss scale, a gradient is too
        # small for float16: that one waits for the backward pass.
        is_early = ctx.needs_input_grad[0] and embeddings.dtype != torch.float16
        ctx.gradient = torch.empty_like(embeddings) if is_early else None
        return _compute(embeddings, labels, anchors, shares, ctx.gradient, **ctx.constants)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        # Given away, so that autograd may add to it in place.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is not None:
            _backend(gradient.device, grad_output.dtype).multiply_(gradient, grad_output)
        else:  # float16, or the second time through the same graph
            embeddings, *others = ctx.saved_tensors
            gradient = torch.empty_like(embeddings)
            _compute(embeddings, *others, gradient, **ctx.constants, grad_output=grad_output)
        return gradient, None, None, None, None, None


def _compute(embeddings, labels, anchors, shares, gradient, **others) -> torch.Tensor:
    if gradient is not None:
        gradient = as_vectors(gradient)
    return _backend(embeddings.device, anchors.dtype).squared_distance(
        as_vectors(embeddings), labels, anchors, shares, gradient, **others
    )


def as_vectors(tensor: torch.Tensor) -> torch.Tensor:
    """(N, C, *) -> (N, C, L), a view; (1, C, N * L) where channels lie last in memory."""
    if _channels_are_last(tensor):
        return tensor.movedim(1, -1).reshape(-1, tensor.shape[1]).T[None]
    return tensor.flatten(2)


def _channels_are_last(tensor: torch.Tensor) -> bool:
    return tensor.movedim(1, -1).is_contiguous()


def _backend(device: torch.device, precision: torch.dtype) -> ModuleType:
    if precision == torch.float32:  # the kernels'
        return choose_backend(__name__, device)
    return squared_distance_pytorch
