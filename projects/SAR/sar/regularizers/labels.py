"""Bring embeddings and labels to common shapes."""

import torch
import torch.nn.functional as F


def match_labels(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return labels at the embeddings' resolution, by nearest neighbour.

    Labels that have this resolution already are returned as they are, in int64.

    Args:
        embeddings: (N, C), (N, C, L) or (N, C, H, W).
        labels: (N,), (N, L0) or (N, H0, W0) integer class ids, of any spatial size.

    Returns:
        (N,), (N, L) or (N, H, W) int64 labels.

    Raises:
        ValueError: the number of samples or of dimensions differs.

    Example::

        >>> match_labels(torch.zeros(2, 64, 16, 16), torch.zeros(2, 64, 64)).shape
        torch.Size([2, 16, 16])
    """
    if labels.dim() != embeddings.dim() - 1 or labels.shape[0] != embeddings.shape[0]:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} do not go with embeddings of shape "
            f"{tuple(embeddings.shape)}: expected (N, *) for (N, C, *)"
        )
    size = embeddings.shape[2:]
    if labels.shape[1:] != size:
        # float32 holds every class id exactly, up to 2^24
        labels = F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0]
    return labels.long()


def as_points(embeddings: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings (N, C, L) and labels (N, L); samples (N, C) become one cloud (1, C, N).

    Args:
        embeddings: (N, C), (N, C, L) or (N, C, H, W).
        labels: of `match_labels`.
    """
    vectors = embeddings.flatten(2) if embeddings.dim() > 2 else embeddings.T[None]
    return vectors, labels.reshape(vectors.shape[0], -1)


def check_channels(embeddings: torch.Tensor, embed_dim: int) -> None:
    """Raise ValueError if embeddings (N, C, *) do not have `embed_dim` channels."""
    if embeddings.shape[1] != embed_dim:
        raise ValueError(
            f"expected embeddings of {embed_dim} channels (embed_dim), "
            f"found shape {tuple(embeddings.shape)}"
        )
