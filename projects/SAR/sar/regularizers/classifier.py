"""Check that a classifier is a linear map of one embedding, which the regularizers assume.

Shape shorthands: C embedding channels, K classes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from sar.regularizers.classifier_trial import try_once

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def why_not_linear(module: object, num_classes: int) -> str | None:
    """Say why a module is not a linear layer or 1x1 convolution of `num_classes` outputs.

    PyTorch's own layers are judged by their attributes. A subclass may do more in its `forward`,
    such as a norm or an activation, so it is tried out as well, once.

    Returns:
        the end of a sentence whose subject is the module, or None if the module is such a layer.
    """
    if not isinstance(module, _LAYERS):
        return f"is a {type(module).__name__}, not a linear layer or 1x1 convolution"
    is_linear = isinstance(module, nn.Linear)
    num_outputs = module.out_features if is_linear else module.out_channels
    if problem := _why_not_pointwise(module):
        return problem
    if num_outputs != num_classes:
        return f"gives {num_outputs} classes, not {num_classes}"
    if type(module) in _LAYERS and "forward" not in vars(module):
        return None
    embed_dim = module.in_features if is_linear else module.in_channels
    return try_once(module, num_classes, embed_dim, module.weight.device)


def check_classifier(
    classifier: Callable[[torch.Tensor], torch.Tensor],
    num_classes: int,
    embed_dim: int,
    device: torch.device,
) -> None:
    """Refuse a classifier that is not a linear map of one embedding.

    A module of another kind than a layer, or a plain callable, is tried out once (see `try_once`).
    Later calls cost microseconds and never wait for a device.

    Args:
        classifier: as `classify` takes it.
        num_classes: K.
        embed_dim: C.
        device: of the embeddings, for a callable without tensors of its own.

    Raises:
        ValueError: another number of channels or classes; a convolution with a kernel, stride,
            padding or groups; batch norm; logits that are not linear in the embedding, or that
            depend on its neighbours.
    """
    if not callable(classifier):
        problem = f"is {classifier!r}, which cannot be called"
    elif isinstance(classifier, _LAYERS):
        problem = why_not_linear(classifier, num_classes)
        num_inputs = getattr(classifier, "in_features", None) or classifier.in_channels
        if not problem and num_inputs != embed_dim:
            problem = f"reads {num_inputs} channels, not {embed_dim} (embed_dim)"
    else:
        parts = classifier.modules() if isinstance(classifier, nn.Module) else ()
        problem = next(filter(None, map(_why_not_part, parts)), None)
        problem = problem or try_once(classifier, num_classes, embed_dim, device)
    if problem:
        raise ValueError(
            f"the classifier {problem}. The regularizers need a linear map of one embedding to "
            f"{num_classes} classes (num_classes): give a linear layer or 1x1 convolution"
        )


def _why_not_pointwise(module: nn.Module) -> str | None:
    """Say why a layer is not a 1x1 convolution; None if it is one, or no convolution."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        return None
    for name, values in (("kernel", module.kernel_size), ("stride", module.stride)):
        if any(value != 1 for value in values):
            return f"has a {name} of {_by(values)}, not {_by('1' * len(values))}"
    if module.groups != 1:
        return f"has {module.groups} groups of channels, not 1"
    # "same" and "valid" add nothing around a kernel of 1.
    if not isinstance(module.padding, str) and any(module.padding):
        return f"has a padding of {_by(module.padding)}, not 0"
    return None


def _why_not_part(part: nn.Module) -> str | None:
    """Say why a module cannot be a part of a classifier, as far as its type tells."""
    if problem := _why_not_pointwise(part):
        return f"contains a {type(part).__name__} that {problem}"
    if isinstance(part, nn.modules.batchnorm._NormBase):
        return f"contains a {type(part).__name__}, whose statistics depend on other embeddings"
    return None


def _by(values: Sequence) -> str:
    return "x".join(map(str, values))
