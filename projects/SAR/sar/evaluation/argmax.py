"""The most likely class of each pixel, fast on the CPU too.

K: number of classes; H, W: height and width of an image in pixels.
"""

import torch
from torch import Tensor

# Pixels at a time, whose scores stay in the cache from one class to the next.
_TILE = 2**17
# Classes at a time, whose ids fit into 8 bits.
_BLOCK = 256


def argmax_over_classes(scores: Tensor) -> Tensor:
    """`scores.argmax(dim=0)`, the first of equals; of NaN, any class.

    On the CPU a running maximum, in vector instructions only: torch's own reduction over the
    outermost dimension compares element by element. Ids are kept as the maximum of k * (class k is
    larger than those before), which for 8 bits costs next to nothing.

    Args:
        scores: (K, H, W) of any floating type.

    Returns:
        (H, W) int64.
    """
    if scores.device.type != "cpu":
        return scores.argmax(dim=0)
    scores = scores.detach()
    result = torch.empty(scores.shape[1:], dtype=torch.int64)
    rows = max(_TILE // max(scores.shape[2], 1), 1)
    for tile, ids in zip(scores.split(rows, dim=1), result.split(rows), strict=True):
        best, best_ids = _running_argmax(tile[:_BLOCK])
        ids.copy_(best_ids)
        for start in range(_BLOCK, len(tile), _BLOCK):
            block_best, block_ids = _running_argmax(tile[start : start + _BLOCK])
            torch.where(block_best > best, block_ids.long() + start, ids, out=ids)
            torch.maximum(best, block_best, out=best)
    return result


def _running_argmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum over up to 256 classes, and its class (uint8)."""
    best = scores[0].clone()
    ids = torch.zeros(best.shape, dtype=torch.uint8)
    larger = torch.empty_like(ids)
    is_larger = larger.view(torch.bool)
    for k in range(1, len(scores)):
        torch.gt(scores[k], best, out=is_larger)
        torch.maximum(best, scores[k], out=best)
        torch.maximum(ids, larger.mul_(k), out=ids)
    return best, ids
