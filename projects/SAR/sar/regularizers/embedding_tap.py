"""The embedding tap: reads what a head feeds to its classifier, and leaves the head alone.

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
    """What one forward pass of a head was given: labels (N, H0, W0), embeddings (N, C, H, W)."""

    embeddings: torch.Tensor | None = None
    labels: torch.Tensor | None = None


@contextmanager
def tap_embeddings(head: nn.Module, classifier: nn.Module | None) -> Iterator[TappedStep]:
    """Reads along while `head(features, targets)` runs.

    Forward pre-hooks that exist inside the `with` only: evaluation and exported models know
    nothing of them, and the head holds nothing once the step is over.

    Args:
        head: called with the labels as its second argument, or as `targets`.
        classifier: the submodule of it that is fed the embedding; None to read labels only.
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
    """The labels among what a hook of `head(features, targets)` is given, by place or by name."""
    return args[1] if len(args) > 1 else kwargs["targets"]


def channels_first(embeddings: torch.Tensor, label_size: tuple[int, int]) -> torch.Tensor:
    """The input (N, H, W, C) or (N, H * W, C) of a linear layer as (N, C, H, W), without a copy.

    Raises:
        InputError: H * W tokens that are no grid of the labels' proportions.
    """
    if embeddings.dim() == 3:
        num_tokens = embeddings.shape[1]
        height = round(math.sqrt(num_tokens * label_size[0] / label_size[1]))
        if height == 0 or num_tokens % height:
            raise InputError(
                f"the classifier is fed {num_tokens} tokens, which are no grid with the "
                f"proportions of labels of {label_size[0]} x {label_size[1]} pixels: give "
                "MODEL.CLASSIFIER a layer that is fed the embedding as a map"
            )
        embeddings = embeddings.unflatten(1, (height, num_tokens // height))
    return embeddings.movedim(-1, 1)


def find_classifier(model: nn.Module, path: str, num_classes: int) -> nn.Module:
    """The linear layer or 1x1 convolution at a dotted `path` in `model`.

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
    """C, what the classifier reads."""
    return classifier.weight.shape[1]
