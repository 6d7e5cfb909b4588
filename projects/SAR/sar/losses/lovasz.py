"""Lovasz-softmax loss: a surrogate of the IoU."""

import torch
from torch import Tensor, nn

from sar.losses.class_probabilities import ClassProbabilities
from sar.losses.maps import as_maps
from sar.ops.class_sums import class_counts
from sar.ops.over_processes import mean_over_processes


class Lovasz(nn.Module):
    """Lovasz-softmax loss, over a batch, with the classes that are present in it.

    Berman et al., "The Lovasz-Softmax loss: A tractable surrogate for the optimization of the
    intersection-over-union measure in neural networks", CVPR 2018, eqs. 8, 9 and 11. For each class
    k that the labels show, the error of a valid pixel is 1 - p_k if its label is k, else p_k. The
    errors are sorted, the largest first. The loss of the class is the sum of the errors, each times
    the step that its pixel adds to the Jaccard loss 1 - IoU. The loss is the mean over these
    classes.

    Each process takes its own images. So the loss depends on how a batch is split over processes,
    as in `HardPixelMining`. It is a mean over the processes that have a valid pixel. If none has,
    it is 0.

    Sorting takes time: one sort of all pixels for each class present. Once in each step, a GPU's
    host waits to learn which classes these are.

    Args:
        ignore_value: label of pixels that do not count.

    Example::

        >>> criterion = Lovasz(ignore_value=255)
        >>> logits, labels = torch.zeros(2, 4, 8, 8), torch.zeros(2, 32, 32, dtype=torch.int64)
        >>> round(criterion(logits, labels, stride=4).item(), 4)  # all errors are 1 - 0.25
        0.75
    """

    def __init__(self, ignore_value: int):
        super().__init__()
        self.ignore_value = ignore_value

    def forward(self, logits: Tensor, targets: Tensor, stride: int = 1) -> Tensor:
        """Return the scalar loss of logits (N, K, h, w) at a stride and labels (N, H, W)."""
        logits, targets = as_maps(logits, targets)
        sizes = class_counts(targets, logits.shape[1], self.ignore_value)
        probabilities = ClassProbabilities(logits, targets, stride)
        present = [k for k, size in enumerate(sizes.tolist()) if size]
        is_valid = targets != self.ignore_value

        def of_class(k: int, p: Tensor) -> tuple[Tensor, Tensor]:
            return _class_loss(p, (targets == k) & is_valid, is_valid)

        loss = probabilities.sum_over(present, of_class) / max(len(present), 1)
        return mean_over_processes(loss, (sizes.sum() > 0).long())


def _class_loss(p: Tensor, is_member: Tensor, is_valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scalar loss of a class with probabilities p, and its derivatives by p.

    All arguments, and the derivatives, are (N, H, W).
    """
    errors = (is_member.to(p.dtype) - p).abs_().where(is_valid, 0)
    steps = jaccard_steps(errors, is_member).where(is_valid, 0)
    return (errors * steps).sum(), torch.where(is_member, -steps, steps)


def jaccard_steps(errors: Tensor, is_member: Tensor) -> Tensor:
    """Return how much each pixel adds to the Jaccard loss, if pixels are added by falling error.

    Args:
        errors: of any shape.
        is_member: of the same shape; True for the pixels of the class, at least one.
    """
    order = _falling_order(errors.flatten())
    is_member = is_member.flatten()[order]
    found = is_member.cumsum(0)
    size = found[-1]
    union = size + torch.arange(1, len(order) + 1, device=order.device) - found
    # 1 - intersection / union, minus the same before the pixel. A difference of these two numbers
    # would lose most digits in float32.
    intersection, union = (size - found).to(errors.dtype), union.to(errors.dtype)
    steps = torch.where(is_member, 1 / union, intersection / (union * (union - 1)))
    return torch.empty_like(steps).scatter_(0, order, steps).view_as(errors)


def _falling_order(values: Tensor) -> Tensor:
    """Return the indices (n,) that sort values (n,) >= 0, the largest first.

    The bits of such numbers, read as integers, have the same order. On a CPU, PyTorch sorts
    integers by their digits if they shall rise. This is several times as fast as its other sorts.
    """
    bits = values.view({torch.float32: torch.int32, torch.float64: torch.int64}[values.dtype])
    return (~bits).argsort()
