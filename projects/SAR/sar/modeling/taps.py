"""Read what the regularizers need from a detectron2 model while it computes its losses.

Shape shorthands: N images, C embedding channels, H x W the resolution of the embedding, H0 x W0 the
resolution of the labels, Q queries of an image, M matched queries of the batch, K classes.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sar.errors import InputError
from sar.modeling.extension import bound_call, own_class
from sar.regularizers.classifier import why_not_linear
from sar.regularizers.embedding_tap import as_map, tap_embeddings
from sar.regularizers.labels import match_labels


@dataclass
class Samples:
    """Embeddings (N, C, H, W) or (M, C) of one forward pass, and their labels (N, H, W) or (M,)."""

    embeddings: torch.Tensor | None = None
    labels: torch.Tensor | None = None


@dataclass(frozen=True)
class PixelTap:
    """The embedding of each pixel, from a head that is called with the labels.

    Attributes:
        head: dotted path of the head in the model.
        classifier: dotted path of the head's last layer; "" if there is none, for CeCo alone.
        embedding: dotted path of the layer whose output is the embedding; "" for the input of the
            classifier.
        labels: name of the head's argument with the labels (N, H0, W0).
    """

    head: str = "sem_seg_head"
    classifier: str = "sem_seg_head.predictor"
    embedding: str = ""
    labels: str = "targets"

    def check(self, model: nn.Module, num_classes: int | None = None) -> None:
        """Raise InputError if a path leads nowhere, or to a layer that is not a classifier."""
        if not (self.classifier or self.embedding):
            raise InputError(
                "MODEL.CLASSIFIER and MODEL.TAP.EMBEDDING are empty: name the layer that computes "
                "the logits, or the layer whose output is the embedding"
            )
        for key, path in (("MODEL.TAP.HEAD", self.head), ("MODEL.TAP.EMBEDDING", self.embedding)):
            if path and not has_module(model, path):
                raise InputError(f'{key} "{path}" leads nowhere in {type(model).__name__}')
        if self.classifier:
            find_classifier(model, self.classifier, num_classes, within=self.head)

    def embed_dim(self, model: nn.Module) -> int:
        """Return C.

        Raises:
            InputError: without a classifier, the layer of the embedding does not tell its channels.
        """
        if self.classifier:
            return embedding_channels(model.get_submodule(self.classifier))
        modules = list(model.get_submodule(self.embedding).modules())
        for module in reversed(modules):
            for name in ("out_channels", "out_features", "num_features"):
                if isinstance(getattr(module, name, None), int):
                    return getattr(module, name)
        raise InputError(
            f'MODEL.TAP.EMBEDDING "{self.embedding}" is a layer whose number of channels is not '
            "known: name the convolution, linear layer or norm before it"
        )

    def classifier_of(self, model: nn.Module) -> nn.Module | None:
        """Return the classifier that the regularizers call; None if there is none."""
        return model.get_submodule(self.classifier) if self.classifier else None

    @contextmanager
    def read(self, model: nn.Module) -> Iterator[Samples]:
        """Return the samples of the forward pass in the `with`; they are complete at its end.

        Raises:
            InputError: the model did not call the head with labels, or the layer not at all.
        """
        samples = Samples()
        head = model.get_submodule(self.head)
        layer = model.get_submodule(self.embedding or self.classifier)

        def read_labels(module, args, kwargs):
            samples.labels = argument(module, self.labels, args, kwargs)

        with ExitStack() as stack:
            stack.enter_context(head.register_forward_pre_hook(read_labels, with_kwargs=True))
            tapped = stack.enter_context(tap_embeddings(layer, output=bool(self.embedding)))
            yield samples
        if samples.labels is None:
            raise InputError(
                f'the model did not call "{self.head}" (MODEL.TAP.HEAD) with labels in training'
            )
        embeddings = tapped.embeddings
        if embeddings is None:
            key = "MODEL.TAP.EMBEDDING" if self.embedding else "MODEL.CLASSIFIER"
            raise InputError(
                f"{type(head).__name__} did not call its classifier in training: set {key} to the "
                "layer that turns its embedding into logits"
            )
        samples.embeddings = as_map(embeddings, samples.labels.shape[-2:])
        samples.labels = match_labels(samples.embeddings, samples.labels)


@dataclass(frozen=True)
class QueryTap:
    """The embedding of each query that is matched to a mask, as in MaskFormer and Mask2Former.

    It is the input of the layer that classifies queries, in the last layer of the decoder. The
    classifier is this layer without its last row, "no object".

    Attributes:
        classifier: dotted path of the layer that classifies queries, with K + 1 outputs.
        matcher: dotted path of the module that matches queries and masks. It is called as
            `matcher(outputs, targets)`, first with the outputs of the last layer. It returns pairs
            of indices, of queries and of masks, for each image. Each of the targets has "labels".
    """

    classifier: str
    matcher: str

    def check(self, model: nn.Module, num_classes: int | None = None) -> None:
        """Raise InputError if a path leads nowhere, or to a layer that is not a classifier."""
        if not has_module(model, self.matcher):
            raise InputError(
                f'MODEL.TAP.MATCHER "{self.matcher}" leads nowhere in {type(model).__name__}'
            )
        num_outputs = None if num_classes is None else num_classes + 1
        find_classifier(model, self.classifier, num_outputs)

    def embed_dim(self, model: nn.Module) -> int:
        """Return C."""
        return embedding_channels(model.get_submodule(self.classifier))

    def classifier_of(self, model: nn.Module) -> "ClassRows":
        """Return the classifier that the regularizers call."""
        return ClassRows(model.get_submodule(self.classifier))

    @contextmanager
    def read(self, model: nn.Module) -> Iterator[Samples]:
        """Return the samples of the forward pass in the `with`; they are complete at its end.

        Raises:
            InputError: the model did not call the classifier or the matcher.
        """
        samples = Samples()
        matched: list[tuple] = []

        def read_matches(module, args, kwargs, indices):
            if not matched:  # later calls are for earlier layers of the decoder
                matched.extend((argument(module, "targets", args, kwargs), indices))

        layer = model.get_submodule(self.classifier)
        matcher = model.get_submodule(self.matcher)
        with (
            matcher.register_forward_hook(read_matches, with_kwargs=True),
            tap_embeddings(layer) as tapped,
        ):
            yield samples
        for path, found in ((self.classifier, tapped.embeddings), (self.matcher, matched or None)):
            if found is None:
                raise InputError(f'the model did not call "{path}" in training')
        queries = tapped.embeddings.movedim(1, -1)  # (N, Q, C), or (layers, N, Q, C)
        if queries.dim() == 4:
            queries = queries[-1]
        targets, indices = matched
        if targets is None:
            raise InputError(
                f'the model called "{self.matcher}" (MODEL.TAP.MATCHER) without "targets"'
            )
        device = queries.device
        samples.embeddings = torch.cat(
            [each[chosen.to(device)] for each, (chosen, _) in zip(queries, indices, strict=True)]
        )
        samples.labels = torch.cat(
            [
                target["labels"].to(device)[masks.to(device)]
                for target, (_, masks) in zip(targets, indices, strict=True)
            ]
        )


class ClassRows:
    """The classifier of queries without its last row: (M, C) to logits (M, K)."""

    def __init__(self, layer: nn.Linear):
        self.layer = layer

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        weight, bias = self.layer.weight[:-1], self.layer.bias
        return F.linear(embeddings.to(weight.dtype), weight, None if bias is None else bias[:-1])


def argument(module: nn.Module, name: str, args: tuple, kwargs: dict) -> object:
    """Return the argument of a module's call with a name, given by position or by name."""
    return bound_call(module, args, kwargs).arguments.get(name)


def has_module(model: nn.Module, path: str) -> bool:
    """Return True if a dotted path leads to a module."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def find_classifier(
    model: nn.Module, path: str, num_classes: int | None, within: str = ""
) -> nn.Module:
    """Return the linear layer or 1x1 convolution at a dotted path in a model.

    Args:
        num_classes: number of its outputs; None accepts any.
        within: dotted path of the part of the model that the error message searches.

    Raises:
        InputError: the path leads nowhere, or to something else than a classifier of
            `num_classes`. The message lists the candidates.
    """
    if not has_module(model, path):
        problem = "leads nowhere"
    else:
        problem = _why_no_classifier(model.get_submodule(path), num_classes)
    if problem:
        part = model.get_submodule(within) if has_module(model, within) else model
        candidates = [
            name
            for name, module in part.named_modules(prefix=within)
            if not _why_no_classifier(module, num_classes)
        ]
        raise InputError(
            f'MODEL.CLASSIFIER "{path}" {problem}. Layers of {own_class(part).__name__} with '
            f"{num_classes} outputs: "
            + (", ".join(candidates) or "none (a linear layer or 1x1 convolution is needed)")
        )
    return model.get_submodule(path)


def _why_no_classifier(module: nn.Module, num_classes: int | None) -> str | None:
    if isinstance(module, (nn.Conv1d, nn.Conv3d)):  # PointRend's predictor for points
        return f"is a {type(module).__name__}, which reads no map"
    if num_classes is None:
        num_classes = getattr(module, "out_features", None) or getattr(module, "out_channels", 0)
    return why_not_linear(module, num_classes)


def embedding_channels(classifier: nn.Module) -> int:
    """Return C, the number of channels that the classifier reads."""
    return classifier.weight.shape[1]
