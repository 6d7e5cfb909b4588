"""Pre-defined class anchors for SAR: any K distinct vectors will do (Ge et al., AAAI 2024, 3.2).

All kinds have the norm that a Gaussian anchor has on average, sqrt(C), so that they can be
exchanged without touching another setting.
"""

import os

import numpy as np
import torch

from sar.regularizers.simplex_etf import simplex_etf


def gaussian_anchors(num_classes: int, embed_dim: int) -> torch.Tensor:
    """(K, C) anchors drawn from N(0, 1): the paper's choice."""
    return torch.randn(num_classes, embed_dim)


def orthogonal_anchors(num_classes: int, embed_dim: int) -> torch.Tensor:
    """(K, C) random anchors at right angles to each other.

    Raises:
        ValueError: K > C.
    """
    if num_classes > embed_dim:
        raise ValueError(
            f"orthogonal anchors of num_classes={num_classes} need as many dimensions, "
            f"but embed_dim={embed_dim}"
        )
    anchors = torch.empty(num_classes, embed_dim)
    return torch.nn.init.orthogonal_(anchors, gain=embed_dim**0.5)


def simplex_etf_anchors(num_classes: int, embed_dim: int) -> torch.Tensor:
    """(K, C) anchors on a simplex equiangular tight frame.

    Raises:
        ValueError: K < 2, or K > C.
    """
    return simplex_etf(num_classes, embed_dim).float() * embed_dim**0.5


def load_anchors(path: str | os.PathLike, num_classes: int, embed_dim: int) -> torch.Tensor:
    """(K, C) anchors from a NumPy file (.npy); nothing in the file is executed.

    Raises:
        ValueError: the file cannot be read, has another shape, is not numeric, or has NaN or
            infinite values.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"anchors file {path} cannot be read as .npy: {error}") from error
    shape = getattr(array, "shape", None)  # an .npz archive has none
    if shape != (num_classes, embed_dim):
        raise ValueError(
            f"anchors file {path}: expected an array of shape (num_classes, embed_dim) = "
            f"({num_classes}, {embed_dim}), found {'an archive' if shape is None else shape}"
        )
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"anchors file {path}: expected real numbers, found {array.dtype}")
    bad_rows = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad_rows):
        raise ValueError(
            f"anchors file {path}: expected finite numbers, found NaN or infinity "
            f"in the row of class id {bad_rows[0]}"
        )
    return torch.from_numpy(array.astype(np.float32))
