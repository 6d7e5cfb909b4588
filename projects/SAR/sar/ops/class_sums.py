"""The loops over pixels that the regularizers share, and sums over processes.

Shape shorthands: N samples, C embedding channels, L pixels or points of a sample, K classes.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
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


def classify(
    classifier: Callable[[torch.Tensor], torch.Tensor], vectors: torch.Tensor
) -> torch.Tensor:
    """Logits (M, K) of vectors (M, C).

    Args:
        classifier: a module that takes vectors; one with a convolution in it, which takes maps; or
            any callable from (M, C) to (M, K).
        vectors: brought to the precision of the classifier's weight.
    """
    weight = weight_of(classifier)
    if weight is not None:  # a convolution wants its spatial dimensions
        vectors = vectors.to(weight.dtype).reshape(vectors.shape + (1,) * (weight.dim() - 2))
    logits = classifier(vectors).flatten(1)
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def weight_of(classifier: Callable) -> torch.Tensor | None:
    """The tensor of a module that has the most dimensions, as a weight has; None for a function."""
    module = module_of(classifier)
    tensors = () if module is None else (*module.parameters(), *module.buffers())
    tensors = (tensor for tensor in tensors if tensor.is_floating_point())
    return max(tensors, key=torch.Tensor.dim, default=None)


def module_of(classifier: Callable) -> nn.Module | None:
    """The classifier itself, or the module that it is a method of; None for a plain function."""
    owner = (
        classifier if isinstance(classifier, nn.Module) else getattr(classifier, "__self__", None)
    )
    return owner if isinstance(owner, nn.Module) else None


def class_counts(labels: torch.Tensor, num_classes: int, ignore_value: int) -> torch.Tensor:
    """(K,) int64 number of labels (any shape) of each class, in [0, K) or `ignore_value`."""
    return _count(_index(labels, num_classes, ignore_value), num_classes)


def _index(labels: torch.Tensor, num_classes: int, ignore_value: int) -> torch.Tensor:
    # Ignored pixels get a row of their own after the last class. An unknown id must not fall into
    # it: pushed beyond, it is out of bounds, and so an error.
    return torch.where(labels == ignore_value, num_classes, labels + (labels >= num_classes))


def _count(index: torch.Tensor, num_classes: int) -> torch.Tensor:
    # Not bincount, which makes the host wait for a GPU.
    counts = index.new_zeros(num_classes + 1)
    counts.scatter_add_(0, index.flatten(), index.new_ones(()).expand(index.numel()))
    return counts[:-1]


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
    index = _index(labels, num_classes, ignore_value)
    # Channel by channel, as the vectors lie in memory: nothing of their size is made.
    sums = vectors.new_zeros(*vectors.shape[:2], num_classes + 1)
    sums = sums.scatter_add(2, index[:, None, :].expand(-1, vectors.shape[1], -1), vectors)
    return sums[..., :-1].sum(dim=0).T, _count(index, num_classes)


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
    return _SumOverProcesses.apply(tensor) if num_processes() > 1 else tensor


def num_processes() -> int:
    """Processes of a distributed training; 1 where it is not."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
