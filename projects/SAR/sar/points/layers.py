"""Convolutions on sparse grids. Weights have the layout of spconv: (D, k, k, k, C).

Shape shorthands: V sites, C input channels, D output channels, k kernel size.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from sar.ops.sparse_convolution import SitePairs, sparse_convolution
from sar.points.sites import Sites


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """Features (V, C) of the sites of a grid."""

    features: torch.Tensor
    sites: Sites

    def map(self, module: nn.Module) -> "SparseTensor":
        """Return the tensor with `module(features)`, a layer for vectors (V, C)."""
        return SparseTensor(module(self.features), self.sites)


class _Convolution(nn.Module):
    """Weight of a kernel; initialized as nn.Conv3d. There is no bias, because a norm follows."""

    compute = staticmethod(sparse_convolution)

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.kernel_size = kernel_size
        shape = (out_channels, *(kernel_size,) * 3, in_channels)
        self.weight = nn.Parameter(torch.empty(shape))
        bound = 1 / math.sqrt(in_channels * kernel_size**3)
        nn.init.uniform_(self.weight, -bound, bound)

    def _convolve(self, features: torch.Tensor, pairs: SitePairs) -> torch.Tensor:
        return self.compute(features, self.weight.flatten(1, 3), pairs)

    def extra_repr(self) -> str:
        out_channels, *_, in_channels = self.weight.shape
        return f"{in_channels}, {out_channels}, kernel_size={self.kernel_size}"


class SubmanifoldConvolution(_Convolution):
    """Convolution whose output sites are the input sites (Graham et al., CVPR 2018).

    Equal to nn.Conv3d with padding, on a dense grid with zeros at empty voxels, at the sites.

    Args:
        in_channels, out_channels: C and D.
        kernel_size: odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__(in_channels, out_channels, kernel_size)

    def forward(self, x: SparseTensor) -> SparseTensor:
        pairs = x.sites.neighbours(self.kernel_size)
        return SparseTensor(self._convolve(x.features, pairs), x.sites)


class DownConvolution(_Convolution):
    """Convolution of kernel size 2 and stride 2, to the coarser sites."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 2)

    def forward(self, x: SparseTensor) -> SparseTensor:
        features = self._convolve(x.features, x.sites.to_coarser)
        return SparseTensor(features, x.sites.coarser)


class UpConvolution(_Convolution):
    """The inverse of `DownConvolution`: from the coarser sites back to the finer ones.

    Equal to nn.ConvTranspose3d of kernel size 2 and stride 2 on a dense grid, at the finer sites.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 2)

    def forward(self, x: SparseTensor, finer: Sites) -> SparseTensor:
        """Return features at the sites of `finer`, whose coarser sites are those of `x`."""
        return SparseTensor(self._convolve(x.features, finer.to_coarser.reversed()), finer)


def use_spconv_triton(model: nn.Module) -> None:
    """Let spconv-triton compute all convolutions of a model on a GPU, except in float64.

    Raises:
        ImportError: spconv-triton is not installed.
    """
    from sar.ops import sparse_convolution_spconv as spconv

    for module in model.modules():
        if isinstance(module, _Convolution):
            module.compute = spconv.sparse_convolution
