"""Models for detectron2. Importing this package registers them, and DeepLab's heads."""

from sar.modeling import heads, timm_backbone  # noqa: F401  registers heads and backbone
from sar.modeling.regularizer_registry import REGULARIZER_REGISTRY, build_regularizers
from sar.modeling.segmentor import (
    RegularizedModel,
    RegularizedPanopticFPN,
    RegularizedSemanticSegmentor,
)

import detectron2.projects.deeplab  # noqa: F401  registers its heads and backbone

__all__ = [
    "REGULARIZER_REGISTRY",
    "RegularizedModel",
    "RegularizedPanopticFPN",
    "RegularizedSemanticSegmentor",
    "build_regularizers",
]
