"""The embedding tap: read the input of a head's classifier without changing the head.

Shape shorthands: N images, C embedding channels, H x W the embedding's resolution, H0 x W0 the
labels'.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from sar.errors import InputError
from sar.regularizers.classifier import why_not_linear


@dataclass
class TappedStep:
    """Labels (N, H0, W0) and embeddings (N, C, H, W) of one forward pass of a head."""

    embeddings: torch.Tensor | None = None
    labels: torch.Tensor | None = None


@contextmanager
def tap_embeddings(head: nn.Module, classifier: nn.Module | None) -> Iterator[TappedStep]:
    """Read embeddings and labels while `head(features, targets)` runs.

    The forward pre-hooks exist inside the `with` only. They do not reach evaluation or exported
    models, and the head keeps nothing after the step.

    Args:
        head: called with the labels as its second argument, or as `targets`.
        classifier: its submodule whose input is the embedding; None to read labels only.
    """
    step = TappedStep()

    def read_labels(module, args, kwargs):
        step.labels = targets_of(args, kwargs)

    def read_embeddings(module, args):
        step.embeddings = args[0]

    with ExitStack() as hooks:
        hooks.enter_context(head.register_forward_pre_hook(read_labels, with_kwargs=True))
        if classifier is not None:
            hooks.enter_context(classifier.register_forward_pre_hook(read_embeddings))
        yield step
    if classifier is None:
        return
    if step.embeddings is None:
        raise InputError(
            f"{type(head).__name__} did not call its classifier in training: set "
            "MODEL.CLASSIFIER to the layer that turns its embedding into logits"
        )
    if isinstance(classifier, nn.Linear):
        step.embeddings = channels_first(step.embeddings, step.labels.shape[-2:])


def targets_of(args: tuple, kwargs: dict) -> torch.Tensor:
    """Return the labels among the arguments of `head(features, targets)`, by position or name."""
    return args[1] if len(args) > 1 else kwargs["targets"]


def channels_first(embeddings: torch.Tensor, label_size: tuple[int, int]) -> torch.Tensor:
    """Return the input (N, H, W, C) or (N, H * W, C) of a linear layer as (N, C, H, W), as a view.

    Raises:
        InputError: the tokens do not form a grid with the labels' proportions.
    """
    if embeddings.dim() == 3:
        num_tokens = embeddings.shape[1]
        height = round(math.sqrt(num_tokens * label_size[0] / label_size[1]))
        if height == 0 or num_tokens % height:
            raise InputError(
                f"the classifier is fed {num_tokens} tokens, which do not form a grid "
                f"with the proportions of labels of {label_size[0]} x {label_size[1]} pixels: give "
                "MODEL.CLASSIFIER a layer that is fed the embedding as a map"
            )
        embeddings = embeddings.unflatten(1, (height, num_tokens // height))
    return embeddings.movedim(-1, 1)


def find_classifier(model: nn.Module, path: str, num_classes: int) -> nn.Module:
    """Return the linear layer or 1x1 convolution at a dotted `path` in `model`.

    Raises:
        InputError: the path leads nowhere, or to something else than a classifier of
            `num_classes`; the message lists the candidates.
    """
    try:
        classifier = model.get_submodule(path)
        problem = why_not_linear(classifier, num_classes)
    except AttributeError:
        problem = "leads nowhere"
    if problem:
        candidates = [
            name
            for name, module in model.sem_seg_head.named_modules(prefix="sem_seg_head")
            if not why_not_linear(module, num_classes)
        ]
        raise InputError(
            f'MODEL.CLASSIFIER "{path}" {problem}. Layers of '
            f"{type(model.sem_seg_head).__name__} that give {num_classes} classes: "
            + (", ".join(candidates) or "none (a linear layer or 1x1 convolution is needed)")
        )
    return classifier


def embedding_channels(classifier: nn.Module) -> int:
    """Return C, the number of channels that the classifier reads."""
    return classifier.weight.shape[1]
