"""The embedding tap: read what a model feeds to its classifier, without changing the model.

Shape shorthands: N images, C embedding channels, L tokens, H x W the resolution of the embedding.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Tapped:
    """Embeddings of the latest forward pass: (N, C, ...), or (N, C) from a linear layer on vectors.

    None before the layer is called.
    """

    embeddings: torch.Tensor | None = None


@contextmanager
def tap_embeddings(layer: nn.Module, *, output: bool = False) -> Iterator[Tapped]:
    """Read the embeddings that pass through a layer of any model.

    The hook exists inside the `with` only. So it does not reach inference or exported models.

    Args:
        layer: the model's last layer, which computes the logits: a linear layer or 1x1 convolution.
        output: read the output of `layer` instead of its input, for a model whose logits are not
            computed by one layer.

    Example::

        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 5, 1))
        >>> with tap_embeddings(model[-1]) as tapped:
        ...     logits = model(torch.zeros(2, 3, 8, 8))
        >>> tapped.embeddings.shape
        torch.Size([2, 16, 6, 6])
    """
    tapped = Tapped()

    def keep(embeddings: torch.Tensor) -> None:
        is_last = isinstance(layer, nn.Linear)  # channels are last
        tapped.embeddings = embeddings.movedim(-1, 1) if is_last else embeddings

    if output:
        hook = layer.register_forward_hook(lambda module, args, result: keep(result))
    else:
        hook = layer.register_forward_pre_hook(lambda module, args: keep(args[0]))
    with hook:
        yield tapped


def as_map(embeddings: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Return the embeddings (N, C, L) of tokens as a map (N, C, H, W), as a view.

    A map is returned as it is.

    Args:
        image_size: a height and width with the proportions of the map.

    Raises:
        ValueError: the tokens do not form a grid with these proportions.
    """
    if embeddings.dim() != 3:
        return embeddings
    num_tokens = embeddings.shape[2]
    height = round(math.sqrt(num_tokens * image_size[0] / image_size[1]))
    if height == 0 or num_tokens % height:
        raise ValueError(
            f"the classifier reads {num_tokens} tokens, which do not form a grid with the "
            f"proportions of {image_size[0]} x {image_size[1]} pixels: tap a layer that reads the "
            "embedding as a map"
        )
    return embeddings.unflatten(2, (height, num_tokens // height))
