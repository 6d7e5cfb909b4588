"""Build the training-only branch of a config, for detectron2's meta-architectures and any other.

A config names a plain meta-architecture, such as PanopticDeepLab, and MODEL.TAP says where it has
its embedding. For two of them there are names with the branch, for programs that call
detectron2's own `build_model`: RegularizedSemanticSegmentor and RegularizedPanopticFPN.
"""

from torch import nn

from sar.errors import InputError
from sar.modeling.head_loss import build_loss, use_all_processes
from sar.modeling.heads import SemanticHead, build_auxiliary_head
from sar.modeling.point_segmentor import PointHead, PointSegmentor
from sar.modeling.regularize import Regularized, regularize
from sar.modeling.regularizer_registry import build_regularizers
from sar.modeling.taps import PixelTap, QueryTap

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, PanopticFPN, SemanticSegmentor


def build_tap(cfg: CfgNode) -> PixelTap | QueryTap:
    """Return what MODEL.TAP and MODEL.CLASSIFIER describe."""
    tap = cfg.MODEL.TAP
    if tap.MATCHER:
        return QueryTap(classifier=cfg.MODEL.CLASSIFIER, matcher=tap.MATCHER)
    return PixelTap(
        head=tap.HEAD,
        classifier=cfg.MODEL.CLASSIFIER,
        embedding=tap.EMBEDDING,
        labels=tap.LABELS,
    )


def add_branch(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Regularize a model as a config says, with MODEL.LOSS and the auxiliary head.

    Returns:
        `model` itself. A model that has the branch already is not changed.

    Raises:
        InputError: the config does not fit the model.
    """
    if isinstance(model, Regularized):
        return model
    loss = auxiliary_head = None
    for key, value in (
        ("MODEL.LOSS.NAME", cfg.MODEL.LOSS.NAME),
        ("MODEL.AUXILIARY_HEAD.IN_FEATURE", cfg.MODEL.AUXILIARY_HEAD.IN_FEATURE),
    ):
        if value and cfg.MODEL.TAP.MATCHER:
            raise InputError(
                f'{key} "{value}" has no effect on a model that classifies queries '
                '(MODEL.TAP.MATCHER), which has a criterion of its own: set it to ""'
            )
    plain = (SemanticSegmentor, PanopticFPN, PointSegmentor)
    if cfg.MODEL.LOSS.NAME or isinstance(model, plain):
        head = _find_head(model, cfg)
        loss = build_loss(cfg, head, model.backbone.size_divisibility)
        if loss is None and not isinstance(head, (SemanticHead, PointHead)):
            use_all_processes(head, cfg.MODEL.TAP.LABELS)
    if cfg.MODEL.AUXILIARY_HEAD.IN_FEATURE:
        auxiliary_head = build_auxiliary_head(cfg, model.backbone.output_shape())
    regularizers, tap = {}, build_tap(cfg)
    if cfg.MODEL.REGULARIZERS:
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        tap.check(model, num_classes)
        regularizers = build_regularizers(cfg, num_classes, tap.embed_dim(model))
    regularize(model, regularizers, tap, loss=loss, auxiliary_head=auxiliary_head)
    return model.to(next(model.parameters()).device)


def _find_head(model: nn.Module, cfg: CfgNode) -> nn.Module:
    try:
        return model.get_submodule(cfg.MODEL.TAP.HEAD)
    except AttributeError:
        raise InputError(
            f'MODEL.TAP.HEAD "{cfg.MODEL.TAP.HEAD}" leads nowhere in {type(model).__name__}'
        ) from None


@META_ARCH_REGISTRY.register()
class RegularizedSemanticSegmentor(SemanticSegmentor):
    """detectron2's SemanticSegmentor with a training-only branch."""

    def __init__(self, cfg: CfgNode):
        super().__init__(with_global_pooling(cfg))
        add_branch(cfg, self)


@META_ARCH_REGISTRY.register()
class RegularizedPanopticFPN(PanopticFPN):
    """detectron2's PanopticFPN with a training-only branch on its semantic head."""

    def __init__(self, cfg: CfgNode):
        super().__init__(with_global_pooling(cfg))
        add_branch(cfg, self)


def with_global_pooling(cfg: CfgNode) -> CfgNode:
    """Return a config in which DeepLab's heads pool over the image, if ASPP_GLOBAL_POOLING is set.

    These heads pool over windows of the crop's size if INPUT.CROP.ENABLED.
    """
    if not cfg.MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.CROP.ENABLED = False
    return cfg
