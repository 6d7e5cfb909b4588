"""Sparse convolution with the Triton kernels of spconv-triton, for GPUs.

It has the interface of spconv 2 (`spconv.pytorch.functional.indice_conv`). Shape shorthands are
those of `sparse_convolution`, and results are equal up to rounding. Importing this module needs the
package spconv-triton.
"""

import torch
from spconv_triton.pytorch import ConvAlgo
from spconv_triton.pytorch.functional import indice_conv

from sar.ops import sparse_convolution as pytorch
from sar.ops.sparse_convolution import SitePairs, in_autocast_precision


def sparse_convolution(
    features: torch.Tensor, weight: torch.Tensor, pairs: SitePairs
) -> torch.Tensor:
    """Return what `sar.ops.sparse_convolution.sparse_convolution` returns, with its arguments.

    PyTorch computes it on a CPU and in float64, for which spconv-triton has no kernels.
    """
    if not features.is_cuda or features.dtype == torch.float64:
        return pytorch.sparse_convolution(features, weight, pairs)
    return by_spconv(features, weight, pairs)


def by_spconv(features: torch.Tensor, weight: torch.Tensor, pairs: SitePairs) -> torch.Tensor:
    """Return the convolution, computed by spconv-triton in the precision of autocast."""
    features, weight = in_autocast_precision(features, weight)
    table, counts = pairs.cached(indice_pairs, features.device)
    # In autocast, spconv would convert to float16, whatever the type of autocast is.
    with torch.autocast(features.device.type, enabled=False):
        return indice_conv(features, weight, table, counts, pairs.num_outputs, ConvAlgo.Native)


def indice_pairs(pairs: SitePairs, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pairs in spconv's format.

    Returns:
        int32 (2, O, P): for each offset, the input sites and the output sites, then -1; int32 (O,):
        the number of pairs of each offset.
    """
    counts = [pairs.num_inputs if i is None else len(i) for i in pairs.inputs]
    table = torch.full((2, len(counts), max(counts)), -1, dtype=torch.int32, device=device)
    for which, indices in enumerate((pairs.inputs, pairs.outputs)):
        for offset, (index, count) in enumerate(zip(indices, counts, strict=True)):
            table[which, offset, :count] = (
                torch.arange(count, device=device) if index is None else index
            )
    return table, torch.tensor(counts, dtype=torch.int32, device=device)
