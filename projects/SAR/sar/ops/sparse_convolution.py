"""Convolution over the occupied sites of a sparse grid.

Shape shorthands: V input sites, U output sites, O offsets of a kernel, P pairs of sites, C input
channels, D output channels.

A site is a voxel that holds at least one point. A kernel has O offsets. For each offset, a
`SitePairs` lists which input site lies at this offset from which output site. The sum over the
offsets of gather, matrix product and scatter is the convolution:

    y_u = sum over offsets o, over the pairs (v, u) of o, of W_o x_v

Floor: each pair needs C D multiplications in the forward pass and twice as many in the backward
pass. The forward pass reads C values for each pair. The backward pass reads C + D values.

The output sites are divided into blocks. The products of a block stay in the cache, and each output
site then sums its products in one pass. On a CPU with one thread, both passes together take two
thirds of the time that they take if the products of each offset are added to the output (48,000
sites of a room, 27 offsets, 32 or 96 channels). With two threads, they take the same time with 32
channels, and 0.8 of it with 96. Only the products of one block are in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Mean number of pairs of a block and an offset. On a CPU, the products of a block then fit into the
# cache; a GPU needs few, large kernels.
_CPU_BLOCK, _GPU_BLOCK = 2**10, 2**15
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class SitePairs:
    """Pairs of input and output sites for each offset of a kernel.

    Attributes:
        inputs, outputs: for each offset, int64 indices (P,). Both ascend, so an input site is in at
            most one pair of an offset, and so is an output site. None means that both are all
            sites, in order.
        num_inputs, num_outputs: V and U.
        is_symmetric: the pairs of offset o, reversed, are the pairs of offset O - 1 - o.
    """

    inputs: Sequence[torch.Tensor | None]
    outputs: Sequence[torch.Tensor | None]
    num_inputs: int
    num_outputs: int
    is_symmetric: bool = False
    _is_reversed: bool = field(default=False, repr=False)
    # Shared with the reversed pairs.
    _cache: dict[tuple, object] = field(default_factory=dict, repr=False)

    def reversed(self) -> "SitePairs":
        """Return the pairs with inputs and outputs exchanged."""
        return SitePairs(
            self.outputs,
            self.inputs,
            self.num_outputs,
            self.num_inputs,
            self.is_symmetric,
            not self._is_reversed,
            self._cache,
        )

    @property
    def num_pairs(self) -> int:
        """Return the number of pairs of all offsets."""
        return sum(self.num_inputs if i is None else len(i) for i in self.inputs)

    def cached(self, function: Callable[..., T], *args: object) -> T:
        """Return `function(pairs, *args)`, which is computed once for these pairs."""
        key = function, args, self._is_reversed
        if key not in self._cache:
            self._cache[key] = function(self, *args)
        return self._cache[key]

    def blocks(self, device: torch.device) -> list["_Block"]:
        """Return the blocks of the output sites that have a pair; computed once."""
        if self._is_reversed and self.is_symmetric:
            return self.cached(_mirrored_blocks, device)
        size = _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK
        return self.cached(_divide, size * len(self.inputs), device)


class _Part(NamedTuple):
    """The pairs of a block and an offset."""

    offset: int
    inputs: torch.Tensor | slice
    outputs: torch.Tensor | slice
    rows: slice  # of the block's products


class _Block(NamedTuple):
    """Consecutive output sites, and their pairs, in the order of the offsets.

    The products of output site u have the rows order[starts[u]:starts[u + 1]].
    """

    sites: slice
    parts: list[_Part]
    order: torch.Tensor
    starts: torch.Tensor

    def sums(self, products: torch.Tensor) -> torch.Tensor:
        """Return the sums (sites, D) of products (rows, D). Low precisions sum in float32."""
        return F.embedding_bag(
            self.order, products, self.starts, mode="sum", include_last_offset=True
        )


def sparse_convolution(
    features: torch.Tensor, weight: torch.Tensor, pairs: SitePairs
) -> torch.Tensor:
    """Return the convolution of features at the output sites; 0 at a site without a pair.

    Differentiable once, in features and weight. In autocast, features and weight are converted to
    its precision. For each block and offset, matrix products are rounded to the precision of the
    features. They are then summed at least in float32.

    Args:
        features: (V, C).
        weight: (D, O, C), in the order of the offsets.
        pairs: of the kernel.

    Returns:
        (U, D), in the precision of the features.
    """
    return _SparseConvolution.apply(*in_autocast_precision(features, weight), pairs)


def in_autocast_precision(
    features: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both in the precision of autocast; unchanged without autocast, and in float64."""
    kind = features.device.type
    if torch.is_autocast_enabled(kind) and features.dtype != torch.float64:
        precision = torch.get_autocast_dtype(kind)
        return features.to(precision), weight.to(precision)
    return features, weight


class _SparseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, weight, pairs):
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        kernel = weight.permute(1, 2, 0).contiguous()  # (O, C, D)
        result = features.new_zeros(pairs.num_outputs, len(weight))
        blocks = pairs.blocks(features.device)
        gather, products = _Gather(features, blocks), _new_products(result, blocks)
        for block in blocks:
            for offset, inputs, _, rows in block.parts:
                torch.mm(gather(inputs), kernel[offset], out=products[rows])
            result[block.sites] = block.sums(products)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        features, weight = ctx.saved_tensors
        needs_features, needs_weight, _ = ctx.needs_input_grad
        kernel = weight.transpose(0, 1).contiguous()  # (O, D, C)
        grad_features = torch.zeros_like(features) if needs_features else None
        precision = torch.float64 if weight.dtype == torch.float64 else torch.float32
        grad_kernel = torch.zeros_like(kernel, dtype=precision) if needs_weight else None
        blocks = ctx.pairs.reversed().blocks(features.device)
        gather_output, gather = _Gather(grad_output, blocks), _Gather(features, blocks)
        products = _new_products(features, blocks)
        for block in blocks:
            for offset, outputs, inputs, rows in block.parts:
                grad_rows = gather_output(outputs)
                if needs_features:
                    torch.mm(grad_rows, kernel[offset], out=products[rows])
                if needs_weight:
                    grad_kernel[offset] += grad_rows.T @ gather(inputs)
            if needs_features:
                grad_features[block.sites] = block.sums(products)
        grad_weight = grad_kernel.transpose(0, 1).to(weight.dtype) if needs_weight else None
        return grad_features, grad_weight, None


class _Gather:
    """Select rows of a tensor (V, C) into memory that each call uses again.

    New memory for each call would cost more time than the copy.
    """

    def __init__(self, tensor: torch.Tensor, blocks: Sequence[_Block]):
        longest = max((_length(part.rows) for b in blocks for part in b.parts), default=0)
        self.tensor = tensor
        self.buffer = tensor.new_empty(longest, tensor.shape[1])

    def __call__(self, index: torch.Tensor | slice) -> torch.Tensor:
        if isinstance(index, slice):
            return self.tensor[index]
        return torch.index_select(self.tensor, 0, index, out=self.buffer[: len(index)])


def _new_products(tensor: torch.Tensor, blocks: Sequence[_Block]) -> torch.Tensor:
    most = max((len(block.order) for block in blocks), default=0)
    return tensor.new_empty(most, tensor.shape[1])


def _divide(pairs: SitePairs, most_pairs: int, device: torch.device) -> list[_Block]:
    """Divide the output sites into blocks of about `most_pairs` pairs."""
    number = pairs.num_outputs
    step = max(1, number * most_pairs // max(1, pairs.num_pairs))
    edges = [*range(0, number, step), number]
    at = torch.tensor(edges, device=device)
    everywhere = torch.arange(number, device=device)
    outputs = [everywhere if j is None else j for j in pairs.outputs]
    # For each offset, the first pair of each block.
    cuts = torch.stack([torch.searchsorted(j, at) for j in outputs])
    counts = cuts.diff(dim=1)  # (O, blocks)
    # The first row of each offset in the products of each block, and the end.
    rows = F.pad(counts.cumsum(dim=0), (0, 0, 1, 0))
    starts = F.pad(torch.bincount(torch.cat(outputs), minlength=number).cumsum(0), (1, 0))
    order = torch.empty(pairs.num_pairs, dtype=torch.int32, device=device)
    following = starts[:-1].clone()  # for each site, where its next row is written in `order`
    for offset, j in enumerate(outputs):
        shift = (rows[offset] - cuts[offset, :-1]).repeat_interleave(counts[offset])
        place = following[j]
        order[place] = (shift + everywhere[: len(j)]).int()
        following[j] = place + 1
    cuts, rows, ends = cuts.tolist(), rows.tolist(), starts[at].tolist()
    blocks = []
    for b, (first, last) in enumerate(zip(edges, edges[1:], strict=False)):
        parts = []
        for offset, (i, j) in enumerate(zip(pairs.inputs, pairs.outputs, strict=True)):
            pair = slice(*cuts[offset][b : b + 2])
            if pair.start < pair.stop:
                index = (pair, pair) if j is None else (i[pair], j[pair])
                parts.append(_Part(offset, *index, slice(rows[offset][b], rows[offset + 1][b])))
        if parts:
            block_starts = (starts[first : last + 1] - ends[b]).int()
            blocks.append(
                _Block(slice(first, last), parts, order[ends[b] : ends[b + 1]], block_starts)
            )
    return blocks


def _mirrored_blocks(pairs: SitePairs, device: torch.device) -> list[_Block]:
    """Return the blocks of symmetric pairs, made from the blocks of the reversed pairs."""
    last = len(pairs.inputs) - 1
    return [
        block._replace(parts=[part._replace(offset=last - part.offset) for part in block.parts])
        for block in pairs.reversed().blocks(device)
    ]


def _length(rows: slice) -> int:
    return rows.stop - rows.start
