"""Compare the Lovász-softmax loss with the same formula in plain PyTorch.

The program measures the loss and the gradient of logits at stride 4. The peer enlarges the logits,
takes their softmax, and sorts the errors of each class as floating-point numbers.

The floor of the time is one sort of as many integers as there are pixels, for each class. The floor
of the memory is the gradient.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from harness import Measurement, chosen, main, peak_memory, time_alternately
from torch import Tensor

from sar.losses import Lovasz

STRIDE, IGNORE = 4, 255
# (N, K, h, w) of the logits
SIZES = [(8, 11, 60, 80), (8, 28, 80, 60), (2, 150, 128, 128)]


def measure(device: torch.device) -> Iterator[Measurement]:
    for size in chosen(SIZES):
        logits, labels = draw(size, device)
        steps = {
            name: gradient_of(loss, logits, labels)
            for name, loss in (("ours", Lovasz(IGNORE)), ("peer", plain_loss))
        }
        integers = torch.randint(2**30, (labels.numel(),), dtype=torch.int32, device=device)
        seconds = time_alternately(steps | {"sort": integers.sort}, seconds=20)
        num_sorts = len(labels.unique()) - 1  # without the ignored id
        where = "x".join(map(str, size))
        yield Measurement(
            "Lovász-softmax, time",
            where,
            *(1e3 * value for value in (seconds["ours"], seconds["peer"])),
            1e3 * num_sorts * seconds["sort"],
        )
        yield Measurement(
            "Lovász-softmax, memory",
            where,
            *(peak_memory(step, device) / 2**20 for step in steps.values()),
            floor=logits.nbytes / 2**20,
            unit="MiB",
        )


def draw(size: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return logits of a model that is often right, and labels; a tenth of them is ignored."""
    num_images, num_classes, height, width = size
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(num_classes, (num_images, height, width), generator=generator)
    logits = 2 * torch.randn(size, generator=generator)
    logits += 4 * F.one_hot(coarse, num_classes).permute(0, 3, 1, 2)
    labels = coarse.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = IGNORE
    return logits.to(device).requires_grad_(), labels.to(device)


def gradient_of(loss: Callable, logits: Tensor, labels: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(loss(logits, labels, STRIDE), logits)


def plain_loss(logits: Tensor, labels: Tensor, stride: int) -> Tensor:
    """Return the loss of Berman et al., CVPR 2018, eqs. 8, 9 and 11, over a batch."""
    upsampled = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    probabilities = upsampled.softmax(1).movedim(1, 0)[:, labels != IGNORE]
    labels = labels[labels != IGNORE]
    losses = []
    for k in labels.unique().tolist():
        errors, order = ((labels == k).float() - probabilities[k]).abs().sort(descending=True)
        is_member = (labels == k)[order]
        missed = is_member.sum() - is_member.cumsum(0)
        jaccard = 1 - missed / (is_member.sum() + (~is_member).cumsum(0))
        losses.append(errors @ jaccard.diff(prepend=jaccard.new_zeros(1)))
    return torch.stack(losses).mean()


if __name__ == "__main__":
    main(__doc__, measure)
