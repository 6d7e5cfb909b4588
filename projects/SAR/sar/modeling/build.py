"""Build the model of a config. If that fails, name the config keys of the part that failed."""

import traceback

from torch import nn

from sar.config import changed_keys
from sar.errors import InputError, describe_exception, dimensions, listed
from sar.modeling.heads.base import select_features

from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_detectron2_model

# Functions of detectron2, and the groups of config keys that each one reads.
_GROUPS = {
    "build_backbone": ("MODEL.BACKBONE", "MODEL.RESNETS", "MODEL.FPN", "MODEL.TIMM"),
    "build_sem_seg_head": ("MODEL.SEM_SEG_HEAD",),
}


def build_model(cfg: CfgNode) -> nn.Module:
    """Build a model with random weights on MODEL.DEVICE, as detectron2's `build_model` does.

    Raises:
        InputError: the model cannot be built, or a layer would be empty. The message names the
            keys of the part that failed, the error, and the line that raised it.
    """
    if not cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise InputError(
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 0: add this key and the number of classes to the "
            "command line"
        )
    try:
        model = build_detectron2_model(cfg)
    except InputError:
        raise
    except Exception as error:  # detectron2 and torch can raise anything
        called = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        groups = next((keys for name, keys in _GROUPS.items() if name in called), ("MODEL",))
        changed = listed(changed_keys(cfg, groups), 30) or "none"
        raise InputError(
            f"no model can be built from {', '.join(groups)}: {describe_exception(error)}. The "
            f"config sets these keys among them: {changed}"
        ) from error
    for name, weights in model.named_parameters():
        if weights.numel() == 0:
            raise InputError(
                f"no model can be built from MODEL: {name} would have the shape "
                f"{dimensions(weights.shape)}. Find the number of channels that is 0, and correct "
                "it"
            )
    # SemSegFPNHead skips unknown names, so check them here.
    key = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
    select_features(model.backbone.output_shape(), cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, key)
    return model
