"""The simplex equiangular tight frame: K directions as far from each other as K can be."""

import torch


def simplex_etf(num_classes: int, embed_dim: int) -> torch.Tensor:
    """K unit vectors in D dimensions whose cosines are all -1 / (K - 1).

    W = sqrt(K / (K - 1)) U (I - 11^T / K) with U (D, K) of orthonormal columns, drawn at random
    (Papyan et al., PNAS 2020; Zhong et al., CVPR 2023, eq. 3). The columns of W are returned as
    rows, one a class, as the weight of a linear layer has them.

    Args:
        num_classes: K, at least 2.
        embed_dim: D, at least K.

    Returns:
        (K, D) float64 tensor.

    Raises:
        ValueError: K < 2, or K > D.

    Example::

        >>> frame = simplex_etf(3, 8)
        >>> cosines = frame @ frame.T  # 1 on the diagonal, -0.5 elsewhere
    """
    if num_classes < 2:
        raise ValueError(f"a simplex ETF needs at least 2 classes, got num_classes={num_classes}")
    if num_classes > embed_dim:
        raise ValueError(
            f"a simplex ETF of num_classes={num_classes} needs as many dimensions, "
            f"but embed_dim={embed_dim}"
        )
    gaussian = torch.randn(embed_dim, num_classes, dtype=torch.float64)
    orthonormal, _ = torch.linalg.qr(gaussian)
    centred = orthonormal - orthonormal.mean(dim=1, keepdim=True)
    return (num_classes / (num_classes - 1)) ** 0.5 * centred.T
