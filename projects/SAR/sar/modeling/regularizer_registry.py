"""Build the regularizers of a config. (`sar.regularizers` itself does not read configs.)"""

import logging
import os

import torch
from torch import nn

from sar import regularizers
from sar.data.class_frequency import class_frequency_of
from sar.errors import InputError, nearest

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry

logger = logging.getLogger(__name__)

REGULARIZER_REGISTRY = Registry("REGULARIZER")
REGULARIZER_REGISTRY.__doc__ = """
Functions `(cfg, num_classes, embed_dim) -> nn.Module` by their names in MODEL.REGULARIZERS.
In training, the module is called as `regularizer(embeddings, labels, classifier)`. It returns a
dict of losses, with the same keys in every step.
"""


# Groups of keys with the arguments of each regularizer.
_GROUPS = {
    "SemanticAnchorRegularizer": "MODEL.SEMANTIC_ANCHOR",
    "CenterCollapseRegularizer": "MODEL.CENTER_COLLAPSE",
    "PrototypeRegularizer": "MODEL.PROTOTYPE",
    "PrototypeContrastRegularizer": "MODEL.PROTOTYPE_CONTRAST",
    "CenterLossRegularizer": "MODEL.CENTER_LOSS",
    "ClassAwareRegularizer": "MODEL.CLASS_AWARE",
}


_ANCHORS = {
    "gaussian": regularizers.gaussian_anchors,
    "orthogonal": regularizers.orthogonal_anchors,
    "simplex_etf": regularizers.simplex_etf_anchors,
}


def build_regularizers(cfg: CfgNode, num_classes: int, embed_dim: int) -> dict[str, nn.Module]:
    """Build the regularizers of MODEL.REGULARIZERS, by name and in its order.

    Raises:
        InputError: a name is not registered or is listed twice; a regularizer refuses a value.
    """
    modules: dict[str, nn.Module] = {}
    for name in cfg.MODEL.REGULARIZERS:
        check_regularizer(name)
        if name in modules:
            raise InputError(f'MODEL.REGULARIZERS lists "{name}" twice')
        try:
            modules[name] = REGULARIZER_REGISTRY.get(name)(cfg, num_classes, embed_dim)
        except ValueError as error:
            group = _GROUPS.get(name, "MODEL.REGULARIZERS")
            raise InputError(f"{group}, {name}: {error}") from error
    return modules


def check_regularizer(name: str) -> None:
    """Raise InputError if no regularizer is registered under this name."""
    if name not in REGULARIZER_REGISTRY:
        known = [known_name for known_name, _ in REGULARIZER_REGISTRY]
        raise InputError(
            f'MODEL.REGULARIZERS: nothing is registered as "{name}".{nearest(name, known)} '
            f"Known are {', '.join(known)}"
        )


@REGULARIZER_REGISTRY.register()
def SemanticAnchorRegularizer(cfg, num_classes, embed_dim):
    _require_classifier(cfg, "SemanticAnchorRegularizer")
    check_anchors(cfg)
    settings = cfg.MODEL.SEMANTIC_ANCHOR
    return regularizers.SemanticAnchorRegularizer(
        num_classes,
        embed_dim,
        anchor_weight=settings.ANCHOR_WEIGHT,
        pull_weight=settings.PULL_WEIGHT,
        hard_anchor_confidence=settings.HARD_ANCHOR_CONFIDENCE,
        gate_confidence=settings.GATE_CONFIDENCE,
        momentum=settings.MOMENTUM,
        pull_over=settings.PULL_OVER,
        ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        anchors=_build_anchors(settings.ANCHORS, num_classes, embed_dim),
    )


def check_anchors(cfg: CfgNode) -> None:
    """Raise InputError if SAR's anchors are of an unknown kind, or their file is missing."""
    if "SemanticAnchorRegularizer" not in cfg.MODEL.REGULARIZERS:
        return
    kind = cfg.MODEL.SEMANTIC_ANCHOR.ANCHORS
    if kind not in _ANCHORS and not kind.endswith(".npy"):
        raise InputError(
            f'MODEL.SEMANTIC_ANCHOR.ANCHORS is "{kind}".{nearest(kind, _ANCHORS)} '
            f"Known are {', '.join(_ANCHORS)}, or the path of a .npy file"
        )
    if kind not in _ANCHORS and not os.path.isfile(kind):
        raise InputError(
            f"MODEL.SEMANTIC_ANCHOR.ANCHORS: file not found: {kind}. Correct the path, or choose "
            f"one of {', '.join(_ANCHORS)}"
        )


def _build_anchors(kind: str, num_classes: int, embed_dim: int) -> torch.Tensor:
    if kind in _ANCHORS:
        return _ANCHORS[kind](num_classes, embed_dim)
    return regularizers.load_anchors(kind, num_classes, embed_dim)


@REGULARIZER_REGISTRY.register()
def CenterCollapseRegularizer(cfg, num_classes, embed_dim):
    settings = cfg.MODEL.CENTER_COLLAPSE
    class_frequencies = None
    if settings.LOGIT_ADJUSTMENT:
        class_frequencies = _images_per_class(cfg)
    return regularizers.CenterCollapseRegularizer(
        num_classes,
        embed_dim,
        weight=settings.WEIGHT,
        scale=settings.SCALE,
        projection_dim=settings.PROJECTION_DIM or None,
        class_frequencies=class_frequencies,
        dropout=settings.DROPOUT,
        ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
    )


@REGULARIZER_REGISTRY.register()
def PrototypeRegularizer(cfg, num_classes, embed_dim):
    _require_classifier(cfg, "PrototypeRegularizer")
    return _build_from_keys(
        regularizers.PrototypeRegularizer, cfg.MODEL.PROTOTYPE, cfg, num_classes, embed_dim
    )


@REGULARIZER_REGISTRY.register()
def PrototypeContrastRegularizer(cfg, num_classes, embed_dim):
    return _build_from_keys(
        regularizers.PrototypeContrastRegularizer,
        cfg.MODEL.PROTOTYPE_CONTRAST,
        cfg,
        num_classes,
        embed_dim,
    )


@REGULARIZER_REGISTRY.register()
def CenterLossRegularizer(cfg, num_classes, embed_dim):
    return _build_from_keys(
        regularizers.CenterLossRegularizer, cfg.MODEL.CENTER_LOSS, cfg, num_classes, embed_dim
    )


@REGULARIZER_REGISTRY.register()
def ClassAwareRegularizer(cfg, num_classes, embed_dim):
    return _build_from_keys(
        regularizers.ClassAwareRegularizer, cfg.MODEL.CLASS_AWARE, cfg, num_classes, embed_dim
    )


def _build_from_keys(
    kind: type[nn.Module], settings: CfgNode, cfg: CfgNode, num_classes: int, embed_dim: int
) -> nn.Module:
    """Build a regularizer whose arguments have the names of the keys in `settings`."""
    return kind(
        num_classes,
        embed_dim,
        ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        **{key.lower(): value for key, value in settings.items()},
    )


def _require_classifier(cfg, name: str) -> None:
    if not cfg.MODEL.CLASSIFIER:
        raise InputError(
            f'MODEL.CLASSIFIER is "", but {name} needs the classifier: set the path of '
            "the layer, or use only regularizers that need none, such as CenterCollapseRegularizer"
        )


def _images_per_class(cfg) -> tuple[int, ...] | None:
    frequency = class_frequency_of(cfg)
    if frequency is None:  # possible in a program that does not train
        logger.warning("The class frequencies are unknown: no logit adjustment in CeCo")
        return None
    return frequency.images
