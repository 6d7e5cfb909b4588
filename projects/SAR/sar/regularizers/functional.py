"""The loops over pixels that the regularizers share, and sums over processes.

Shape shorthands: N samples, C embedding channels, L pixels or points of a sample, K classes.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def match_labels(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Labels at the embeddings' resolution, by nearest neighbour.

    Args:
        embeddings: (N, C), (N, C, L) or (N, C, H, W).
        labels: (N,), (N, L0) or (N, H0, W0) integer class ids, of any spatial size.

    Returns:
        (N, L) int64 labels with L = 1, L or H * W.

    Raises:
        ValueError: the number of samples or of dimensions differs.
    """
    if labels.dim() != embeddings.dim() - 1 or labels.shape[0] != embeddings.shape[0]:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} do not go with embeddings of shape "
            f"{tuple(embeddings.shape)}: expected (N, *) beside (N, C, *)"
        )
    size = embeddings.shape[2:]
    if labels.shape[1:] != size:
        # float32 holds every class id exactly, up to 2^24
        labels = F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0]
    return labels.long().reshape(labels.shape[0], -1)


def classify(classifier, vectors: torch.Tensor) -> torch.Tensor:
    """Logits (K, K') of vectors (K, C) by a linear layer, a 1x1 convolution or any callable."""
    weight = getattr(classifier, "weight", None)
    if isinstance(weight, torch.Tensor):  # a convolution wants its spatial dimensions
        vectors = vectors.to(weight.dtype).reshape(vectors.shape + (1,) * (weight.dim() - 2))
    logits = classifier(vectors).flatten(1)
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class _MeanSquaredDistance(torch.autograd.Function):
    """See `mean_squared_distance`. The gradient is written in the forward pass, into the one
    buffer of the embedding's size that the distance itself needs."""

    @staticmethod
    def forward(ctx, embeddings, labels, valid, anchors):
        channels, length = embeddings.shape[1:]
        index = labels.where(valid, 0)[:, None, :].expand(-1, channels, -1)
        table = anchors.T[None].expand(embeddings.shape[0], -1, -1)
        difference = table.gather(2, index)
        torch.sub(embeddings, difference, out=difference)
        difference.mul_(valid[:, None, :])
        scale = 1.0 / (channels * valid.sum().clamp(min=1)).to(difference.dtype)
        # Summed a sample at a time, so that the squares need no second buffer of full size.
        value = torch.stack([sample.square().sum() for sample in difference]).sum() * scale
        ctx.save_for_backward(difference.mul_(2 * scale))
        ctx.input_dtype = embeddings.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_output).to(ctx.input_dtype), None, None, None


def mean_squared_distance(
    embeddings: torch.Tensor, labels: torch.Tensor, anchors: torch.Tensor, ignore_value: int
) -> torch.Tensor:
    """Mean over valid pixels and channels of (e - anchor of its class)^2; 0 with no valid pixel.

    Differentiable in the embeddings only.

    Args:
        embeddings: (N, C, L) float.
        labels: (N, L) int64 class ids in [0, K), or `ignore_value`.
        anchors: (K, C), in float32 or float64: the precision of the computation.
        ignore_value: label of pixels that do not count.

    Returns:
        Scalar in the anchors' precision.
    """
    return _MeanSquaredDistance.apply(embeddings, labels, labels != ignore_value, anchors.detach())


def class_sums(
    vectors: torch.Tensor, labels: torch.Tensor, num_classes: int, ignore_value: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the vectors of each class, and their number; zeros for a class that is absent.

    Differentiable in the vectors.

    Args:
        vectors: (N, C, L) float.
        labels: (N, L) int64 class ids in [0, K), or `ignore_value`.
        num_classes: K.
        ignore_value: label of pixels that do not count.

    Returns:
        (K, C) sums in the vectors' precision, (K,) int64 counts.
    """
    # Ignored pixels get a row of their own after the last class. An unknown id must not fall into
    # it: pushed beyond, it is out of bounds, and so an error.
    index = torch.where(labels == ignore_value, num_classes, labels + (labels >= num_classes))
    counts = index.new_zeros(num_classes + 1)
    counts.scatter_add_(0, index.flatten(), index.new_ones(()).expand(index.numel()))
    # Channel by channel, as the vectors lie in memory: nothing of their size is made.
    sums = vectors.new_zeros(*vectors.shape[:2], num_classes + 1)
    sums = sums.scatter_add(2, index[:, None, :].expand(-1, vectors.shape[1], -1), vectors)
    return sums[..., :-1].sum(dim=0).T, counts[:-1]


class _SumOverProcesses(torch.autograd.Function):
    """See `sum_over_processes`."""

    @staticmethod
    def forward(ctx, tensor):
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        total = grad_output.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over the processes of a distributed training; the tensor itself in one alone.

    The gradient is that of the losses of all processes together. Where parameters' gradients are
    then averaged over processes, as DistributedDataParallel does, they are those of the mean loss.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return _SumOverProcesses.apply(tensor)
    return tensor
