"""Call a classifier on vectors, whatever kind of callable it is."""

from collections.abc import Callable

import torch
from torch import nn


def classify(
    classifier: Callable[[torch.Tensor], torch.Tensor], vectors: torch.Tensor
) -> torch.Tensor:
    """Return the logits (M, K) of vectors (M, C).

    Args:
        classifier: a module that takes vectors; a module with a convolution, which takes maps; or
            any callable from (M, C) to (M, K).
        vectors: (M, C). They are converted to the precision of the classifier's weight.
    """
    weight = weight_of(classifier)
    if weight is not None:  # a convolution needs its spatial dimensions
        vectors = vectors.to(weight.dtype).reshape(vectors.shape + (1,) * (weight.dim() - 2))
    logits = classifier(vectors).flatten(1)
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def weight_of(classifier: Callable) -> torch.Tensor | None:
    """Return the tensor of a module with the most dimensions, its weight; None for a function."""
    module = module_of(classifier)
    tensors = () if module is None else (*module.parameters(), *module.buffers())
    tensors = (tensor for tensor in tensors if tensor.is_floating_point())
    return max(tensors, key=torch.Tensor.dim, default=None)


def module_of(classifier: Callable) -> nn.Module | None:
    """Return the classifier if it is a module, or the module whose method it is; else None."""
    owner = (
        classifier if isinstance(classifier, nn.Module) else getattr(classifier, "__self__", None)
    )
    return owner if isinstance(owner, nn.Module) else None
