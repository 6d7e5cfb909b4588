"""Models for detectron2. Importing this registers the meta-architecture, and DeepLab's heads."""

from sar.modeling import heads, mask_classifier  # noqa: F401  registers them
from sar.modeling.backbones import timm_backbone  # noqa: F401  registers it
from sar.modeling.regularize import regularize
from sar.modeling.regularizer_registry import REGULARIZER_REGISTRY, build_regularizers
from sar.modeling.segmentor import add_branch
from sar.modeling.taps import PixelTap, QueryTap

import detectron2.projects.deeplab  # noqa: F401  registers its heads and backbone

__all__ = [
    "REGULARIZER_REGISTRY",
    "PixelTap",
    "QueryTap",
    "add_branch",
    "build_regularizers",
    "regularize",
]
