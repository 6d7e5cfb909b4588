"""The computation of `squared_distance` in PyTorch.

On a CPU, a tile of the gradient passes all steps while it is in the cache.
"""

import torch

CPU_TILE = 1 << 17  # values: 512 KiB in float32


def count_valid(labels: torch.Tensor, ignore_value: int) -> torch.Tensor:
    """Return the number of valid labels, int64 of shape (1,)."""
    return (labels != ignore_value).sum()[None]


def squared_distance(
    vectors: torch.Tensor,
    labels: torch.Tensor,
    anchors: torch.Tensor,
    shares: torch.Tensor,
    gradient: torch.Tensor | None,
    *,
    ignore_value: int,
    weight: float,
    grad_output: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """Return weight * sum over valid pixels and channels of (e - anchor)^2 * share.

    The anchor and the share belong to the pixel's class.

    Args:
        vectors: (N, C, L) embeddings; either L or C is last in memory.
        labels: (N, L) int64 class ids or `ignore_value`.
        anchors: (K, C), in the precision of the computation.
        shares: (K,) the share of a pixel of each class, or () the share of every pixel, which saves
            a pass. Not negative, in the anchors' precision.
        gradient: output, with the layout of `vectors`: the gradient times `grad_output`. None if
            it is not needed.

    Returns:
        Scalar in the anchors' precision.
    """
    roots = shares.sqrt()  # one tile then gives both the sum of squares and the gradient
    channels_last = vectors.stride(1) == 1
    # In the order of memory: the rows of a sample are pixels if channels are last, else channels.
    samples = vectors.mT if channels_last else vectors
    outputs = gradient.mT if channels_last and gradient is not None else gradient
    table = anchors if channels_last else anchors.T.contiguous()
    num_rows, length = samples.shape[1:]
    tile_rows = max(1, num_rows)
    if vectors.device.type == "cpu":
        tile_rows = min(tile_rows, max(1, CPU_TILE // max(1, length)))
    is_in_place = outputs is not None and outputs.dtype == anchors.dtype
    scratch = None if is_in_place else anchors.new_empty(tile_rows, length)
    total = anchors.new_zeros(())
    for n in range(len(samples)):
        valid = labels[n] != ignore_value
        index = labels[n].where(valid, 0)
        root = roots[index] if roots.dim() else roots
        factor = root * (2 * weight * grad_output)
        root = root * valid
        for start in range(0, num_rows, tile_rows):
            rows = slice(start, start + tile_rows)
            sample = samples[n, rows]
            tile = outputs[n, rows] if is_in_place else scratch[: len(sample)]
            if channels_last:
                torch.index_select(table, 0, index[rows], out=tile)
                of_tile = [x[rows, None] if x.dim() else x for x in (root, factor)]
            else:
                torch.gather(table[rows], 1, index.expand(len(tile), -1), out=tile)
                of_tile = [root, factor]
            torch.sub(sample, tile, out=tile).mul_(of_tile[0])
            total += torch.dot(tile.flatten(), tile.flatten())
            if outputs is not None:
                torch.mul(tile, of_tile[1], out=outputs[n, rows])
    return total * weight


def multiply_(gradient: torch.Tensor, grad_output: torch.Tensor) -> None:
    """Multiply in place. A CPU skips the pass for a factor of 1, which is cheap to read there."""
    if gradient.device.type != "cpu" or grad_output != 1:
        gradient.mul_(grad_output)
