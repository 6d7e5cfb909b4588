"""Find the most likely class of each pixel, also fast on the CPU.

Shape shorthands: K classes, H x W pixels of an image.
"""

import torch
from torch import Tensor

# Number of pixels whose scores stay in the cache from one class to the next.
_TILE = 2**17
# Number of classes whose ids fit into 8 bits.
_BLOCK = 256


def argmax_over_classes(scores: Tensor) -> Tensor:
    """Return `scores.argmax(dim=0)`: the first class among equal scores, any class for NaN.

    On the CPU, this is a running maximum with vector instructions only. torch's own reduction over
    the outermost dimension compares element by element. The id is the maximum of k * (class k is
    larger than all classes before it), which costs almost nothing with 8 bits.

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
    """Return the maximum over up to 256 classes, and its class (uint8)."""
    best = scores[0].clone()
    ids = torch.zeros(best.shape, dtype=torch.uint8)
    larger = torch.empty_like(ids)
    is_larger = larger.view(torch.bool)
    for k in range(1, len(scores)):
        torch.gt(scores[k], best, out=is_larger)
        torch.maximum(best, scores[k], out=best)
        torch.maximum(ids, larger.mul_(k), out=ids)
    return best, ids
