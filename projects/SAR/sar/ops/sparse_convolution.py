"""Convolution over the occupied sites of a sparse grid.

Shape shorthands: V input sites, U output sites, O offsets of a kernel, P pairs of sites, C input
channels, D output channels.

A site is a voxel that holds at least one point. A kernel has O offsets. For each offset, a
`SitePairs` lists which input site lies at this offset from which output site. The sum over the
offsets of gather, matrix product and scatter is the convolution:

    y_u = sum over offsets o, over the pairs (v, u) of o, of W_o x_v

Floor: each pair needs C D multiplications in the forward pass and twice as many in the backward
pass. It reads C values and adds to D values; the backward pass reads both again, and adds to C
values. No tensor has the size of all pairs, because the offsets follow one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, eq=False)
class SitePairs:
    """Pairs of input and output sites for each offset of a kernel.

    Attributes:
        inputs, outputs: for each offset, int64 indices (P,). An output site is in at most one pair
            of an offset, and so is an input site. None means that both are all sites, in order.
        num_inputs, num_outputs: V and U.
    """

    inputs: Sequence[torch.Tensor | None]
    outputs: Sequence[torch.Tensor | None]
    num_inputs: int
    num_outputs: int

    def reversed(self) -> "SitePairs":
        """Return the pairs with inputs and outputs exchanged."""
        return SitePairs(self.outputs, self.inputs, self.num_outputs, self.num_inputs)

    @property
    def num_pairs(self) -> int:
        """Return the number of pairs of all offsets."""
        return sum(self.num_inputs if i is None else len(i) for i in self.inputs)


def sparse_convolution(
    features: torch.Tensor, weight: torch.Tensor, pairs: SitePairs
) -> torch.Tensor:
    """Return the convolution of features at the output sites; 0 at a site without a pair.

    Differentiable once, in features and weight. In autocast, features and weight are converted to
    its precision. Sums over offsets are in the precision of the result, at least float32.

    Args:
        features: (V, C).
        weight: (D, O, C), in the order of the offsets.
        pairs: of the kernel.

    Returns:
        (U, D), in the precision of the features.
    """
    kind = features.device.type
    if torch.is_autocast_enabled(kind) and features.dtype != torch.float64:
        precision = torch.get_autocast_dtype(kind)
        features, weight = features.to(precision), weight.to(precision)
    return _SparseConvolution.apply(features, weight, pairs)


class _SparseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, weight, pairs):
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        total = features.new_zeros(
            pairs.num_outputs, len(weight), dtype=_sum_precision(features.dtype)
        )
        kernel = weight.permute(1, 2, 0).contiguous()  # (O, C, D)
        for matrix, i, j in zip(kernel, pairs.inputs, pairs.outputs, strict=True):
            _add_product(total, j, _rows(features, i), matrix)
        return total.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        features, weight = ctx.saved_tensors
        pairs = ctx.pairs
        grad_output = grad_output.contiguous()
        needs_features, needs_weight, _ = ctx.needs_input_grad
        grad_features = grad_weight = None
        if needs_features:
            grad_features = torch.zeros_like(features, dtype=_sum_precision(features.dtype))
        if needs_weight:
            grad_weight = torch.empty_like(weight)
        kernel = weight.permute(1, 0, 2).contiguous()  # (O, D, C)
        for o, (i, j) in enumerate(zip(pairs.inputs, pairs.outputs, strict=True)):
            rows = _rows(grad_output, j)
            if needs_features:
                _add_product(grad_features, i, rows, kernel[o])
            if needs_weight:
                grad_weight[:, o] = rows.T @ _rows(features, i)
        if needs_features:
            grad_features = grad_features.to(features.dtype)
        return grad_features, grad_weight, None


def _add_product(total, index, rows, matrix) -> None:
    """Add rows @ matrix to the rows `index` of `total`, which occur at most once."""
    if index is None and rows.dtype == total.dtype:
        total.addmm_(rows, matrix)
    elif index is None:
        total += rows @ matrix
    elif len(index):
        total.index_add_(0, index, (rows @ matrix).to(total.dtype))


def _rows(tensor: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    return tensor if index is None else tensor.index_select(0, index)


def _sum_precision(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
