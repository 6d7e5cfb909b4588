"""The two passes of `upsampled_cross_entropy` in PyTorch, one tile of upsampled logits at a time.

A tile is a set of rows of one phase (see `_Phase`), of one image or several small images. Rows are
interpolated before columns, so each tile takes one operation with two reads.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits of a tile (on a CPU, per thread): few enough for the caches, enough to start the threads.
_CPU_TILE = 3 * 2**17
_GPU_TILE = 2**22


class _Phase(NamedTuple):
    """One of the `stride` positions that a pixel can have between two logits of a row or column.

    All pixels of a phase have the same two interpolation weights. So they are a weighted sum of two
    slices of the logits, without gathering.

    Attributes:
        offset: index of its first pixel. The others follow at the stride.
        shift: index of the first neighbour of that pixel, in logits that are padded by one.
        weight: weight of the second neighbour.
    """

    offset: int
    shift: int
    weight: float

    def mix(self, padded: Tensor, dim: int, first: int, length: int) -> Tensor:
        """Return the logits of `length` pixels, starting at the logit `first`."""
        neighbours = (padded.narrow(dim, first + self.shift + i, length) for i in (0, 1))
        return torch.lerp(*neighbours, self.weight)

    def add_gradient(self, padded: Tensor, dim: int, first: int, gradient: Tensor) -> None:
        """Add to `padded` the gradient of the input of `mix`."""
        for i, weight in enumerate((1 - self.weight, self.weight)):
            neighbour = padded.narrow(dim, first + self.shift + i, gradient.shape[dim])
            neighbour.add_(gradient, alpha=weight)


def _phases(stride: int) -> list[_Phase]:
    positions = [(offset + 0.5) / stride - 0.5 for offset in range(stride)]
    return [_Phase(i, int(x >= 0), x % 1.0) for i, x in enumerate(positions)]


def forward(logits: Tensor, labels: Tensor, stride: int, ignore_value: int) -> tuple[Tensor]:
    """Return the losses (N, H, W). `backward` needs no other tensors."""
    losses = logits.new_empty(labels.shape)
    for images, image_labels, image_losses in _batches(logits, labels, losses):
        padded = _pad(images)
        for rows, row_phase, first, num_rows in _row_tiles(images, image_labels, stride):
            mixed_rows = row_phase.mix(padded, 2, first, num_rows)
            for phase in _phases(stride):
                columns = slice(phase.offset, None, stride)
                tile_labels = image_labels[:, rows, columns]
                tile = phase.mix(mixed_rows, 3, 0, tile_labels.shape[2])
                image_losses[:, rows, columns] = F.cross_entropy(
                    tile, tile_labels, ignore_index=ignore_value, reduction="none"
                )
    return (losses,)


def backward(
    logits: Tensor, labels: Tensor, grad_output: Tensor, stride: int, ignore_value: int
) -> Tensor:
    """Return the gradient (N, K, h, w) of the logits from the gradient (N, H, W) of the losses."""
    gradient = torch.empty_like(logits)
    for images, image_labels, image_grad_output, image_gradient in _batches(
        logits, labels, grad_output, gradient
    ):
        padded = _pad(images)
        padded_gradient = torch.zeros_like(padded)
        for rows, row_phase, first, num_rows in _row_tiles(images, image_labels, stride):
            mixed_rows = row_phase.mix(padded, 2, first, num_rows)
            rows_gradient = torch.zeros_like(mixed_rows)
            for phase in _phases(stride):
                columns = slice(phase.offset, None, stride)
                tile_labels = image_labels[:, None, rows, columns]
                valid = tile_labels != ignore_value
                factors = image_grad_output[:, None, rows, columns].where(valid, 0)
                tile = phase.mix(mixed_rows, 3, 0, tile_labels.shape[3]).softmax(1).mul_(factors)
                tile.scatter_add_(1, tile_labels.where(valid, 0), -factors)
                phase.add_gradient(rows_gradient, 3, 0, tile)
            row_phase.add_gradient(padded_gradient, 2, first, rows_gradient)
        _add_padding(padded_gradient)
        image_gradient.copy_(padded_gradient[..., 1:-1, 1:-1])
    return gradient


def _tile_size(logits: Tensor) -> int:
    return _GPU_TILE if logits.is_cuda else _CPU_TILE * torch.get_num_threads()


def _batches(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield groups of as many images as fit in a tile, and at least one."""
    num_images = max(1, _tile_size(logits) // logits[0].numel())
    return zip(*(x.split(num_images) for x in (logits, *others)), strict=True)


def _row_tiles(
    images: Tensor, labels: Tensor, stride: int
) -> Iterator[tuple[slice, _Phase, int, int]]:
    """Yield for each tile: rows of the labels, their phase, first row of logits, number of rows."""
    num_images, num_classes, height, width = images.shape
    step = max(1, _tile_size(images) // (num_images * num_classes * width))
    for first in range(0, height, step):
        for phase in _phases(stride):
            end = min((first + step) * stride, labels.shape[1])
            rows = range(first * stride + phase.offset, end, stride)
            if rows:
                yield slice(rows.start, rows.stop, stride), phase, first, len(rows)


def _pad(images: Tensor) -> Tensor:
    """Return logits (N, K, h + 2, w + 2) whose border is repeated once."""
    return F.pad(images, (1, 1, 1, 1), mode="replicate")


def _add_padding(gradient: Tensor) -> None:
    """Add to the border the gradient of the padding that `_pad` made from it."""
    for dim in (2, 3):
        size = gradient.shape[dim]
        for border, beyond in ((1, 0), (size - 2, size - 1)):
            gradient.select(dim, border).add_(gradient.select(dim, beyond))
