"""Sums and means over the processes of a distributed training, with their gradients."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

_TINY = torch.finfo(torch.float32).tiny
_is_alone = False


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
    """Return the sum of a tensor over all processes, or the tensor itself in one process.

    The backward pass sums the gradients of the losses of all processes. DistributedDataParallel
    then averages the gradients of the parameters, which gives the gradients of the mean loss.
    """
    return _SumOverProcesses.apply(tensor) if num_processes() > 1 else tensor


def mean_over_processes(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the share of this process in the mean loss over the valid pixels of all processes.

    The mean of the returned values over processes is the loss of the whole batch, however the valid
    pixels are spread over processes. The same holds for gradients that DistributedDataParallel
    averages. A process without a valid pixel gets 0 with a gradient of 0, although its own mean is
    0 / 0.

    Args:
        loss: scalar, the mean over the valid pixels of this process.
        weight: scalar, the number of these pixels, or the sum of their weights.
    """
    total = sum_over_processes(weight).clamp(min=_TINY)
    share = weight * num_processes() / total  # 1 in one process
    # Not nan_to_num: a training that diverges must remain visible.
    return torch.where(weight > 0, loss * share, torch.zeros_like(loss))


def num_processes() -> int:
    """Return the number of processes that sums go over: 1 without a distributed training."""
    is_distributed = dist.is_available() and dist.is_initialized() and not _is_alone
    return dist.get_world_size() if is_distributed else 1


@contextmanager
def in_one_process() -> Iterator[None]:
    """Compute sums and means over this process only, inside the `with`."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before
