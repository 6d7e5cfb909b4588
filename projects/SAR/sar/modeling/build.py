"""Build the model of a config. If that fails, say which keys describe the part that failed."""

from torch import nn

from sar.config import building
from sar.errors import InputError, dimensions
from sar.modeling.heads.base import select_features
from sar.modeling.segmentor import add_branch, with_global_pooling

from detectron2.config import CfgNode
from detectron2.modeling import Backbone, build_backbone
from detectron2.modeling import build_model as build_detectron2_model

# Functions of detectron2, and the groups of keys from which each builds its part of the model.
_PARTS = {
    "build_backbone": ("MODEL.BACKBONE", "MODEL.RESNETS", "MODEL.FPN", "MODEL.TIMM"),
    "build_sem_seg_head": ("MODEL.SEM_SEG_HEAD",),
}


def build_model(cfg: CfgNode) -> nn.Module:
    """Build a model as detectron2's `build_model`, on MODEL.DEVICE, with random weights.

    Raises:
        InputError: the model cannot be built, or a layer would be empty. The message names the
            keys of the part that failed, the error, and where it was raised.
    """
    if not cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise InputError("MODEL.SEM_SEG_HEAD.NUM_CLASSES is 0: add it and the number to the line")
    with building(cfg, "model", "MODEL", **_PARTS):
        try:
            model = build_detectron2_model(with_global_pooling(cfg))
        except Exception:  # a head without features fails before it could name the key
            _check_features(cfg, build_backbone(cfg))
            raise
        if cfg.MODEL.REGULARIZERS or cfg.MODEL.LOSS.NAME or cfg.MODEL.AUXILIARY_HEAD.IN_FEATURE:
            model = add_branch(cfg, model)
    for name, weights in model.named_parameters():
        if weights.numel() == 0:
            raise InputError(
                f"no model can be built from MODEL: {name} would have the shape "
                f"{dimensions(weights.shape)}. Correct the number of channels that is 0"
            )
    if isinstance(getattr(model, "backbone", None), Backbone):  # SemSegFPNHead skips unknown names
        _check_features(cfg, model.backbone)
    return model


def drop_training_branch(cfg: CfgNode) -> None:
    """Remove the parts of a model that only training needs from its config.

    These are the regularizers, the auxiliary head and, without TEST.LOSS, the loss of MODEL.LOSS.
    """
    cfg.MODEL.REGULARIZERS = ()
    cfg.MODEL.AUXILIARY_HEAD.IN_FEATURE = ""
    if not cfg.TEST.LOSS:
        cfg.MODEL.LOSS.OWN_CLASS_WEIGHTS = ()
        cfg.MODEL.LOSS.NAME = cfg.MODEL.LOSS.CLASS_WEIGHTS = ""


def _check_features(cfg: CfgNode, backbone: Backbone) -> None:
    """Raise InputError if MODEL.SEM_SEG_HEAD.IN_FEATURES names a feature that is missing."""
    key = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
    select_features(backbone.output_shape(), cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, key)
