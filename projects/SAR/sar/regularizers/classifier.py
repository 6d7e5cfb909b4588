"""Check that a classifier is a linear map of one embedding, which the regularizers assume."""

from collections.abc import Callable

import torch
from torch import nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def why_not_linear(module: object, num_classes: int) -> str | None:
    """Say why a module is not a linear layer or 1x1 convolution of `num_classes` outputs.

    Reads attributes only, so it costs microseconds and never waits for a device.

    Returns:
        the end of a sentence whose subject is the module, or None if the module is such a layer.
    """
    if isinstance(module, nn.Linear):
        num_outputs = module.out_features
    elif isinstance(module, _CONVOLUTIONS):
        num_outputs = module.out_channels
        for name, values in (("kernel", module.kernel_size), ("stride", module.stride)):
            if any(value != 1 for value in values):
                ones = "x".join("1" * len(values))
                return f"has a {name} of {'x'.join(map(str, values))}, not {ones}"
        if module.groups != 1:
            return f"has {module.groups} groups of channels, not 1"
        # "same" and "valid" add nothing around a kernel of 1.
        if not isinstance(module.padding, str) and any(module.padding):
            return f"has a padding of {'x'.join(map(str, module.padding))}, not 0"
    else:
        return f"is a {type(module).__name__}, not a linear layer or 1x1 convolution"
    if num_outputs != num_classes:
        return f"gives {num_outputs} classes, not {num_classes}"
    return None


def check_classifier(classifier: Callable[[torch.Tensor], torch.Tensor], num_classes: int) -> None:
    """Refuse a classifier that does not map each embedding to logits on its own.

    A plain callable, or a module of another kind, is trusted to map (K, C) to (K, K). But a
    convolution inside it must not see neighbouring embeddings.

    Raises:
        ValueError: a convolution with a kernel, stride, padding or groups, or a layer with another
            number of outputs.
    """
    if not isinstance(classifier, nn.Module):
        return
    if isinstance(classifier, (nn.Linear, *_CONVOLUTIONS)):
        problem = why_not_linear(classifier, num_classes)
    else:
        problem = next(
            (
                f"contains a {type(part).__name__} with a kernel of "
                f"{'x'.join(map(str, part.kernel_size))}"
                for part in classifier.modules()
                if isinstance(part, nn.modules.conv._ConvNd)
                and any(size != 1 for size in part.kernel_size)
            ),
            None,
        )
    if problem:
        raise ValueError(
            f"the classifier {problem}. The regularizers need a linear map of one embedding to "
            f"{num_classes} classes (num_classes): give a linear layer or 1x1 convolution"
        )
