"""Models for detectron2. Importing this registers the meta-architecture, and DeepLab's heads."""

import detectron2.projects.deeplab  # noqa: F401  registers its heads and backbone

from . import heads, timm_backbone  # noqa: F401  registers them
from .regularizers import REGULARIZER_REGISTRY, build_regularizers
from .segmentor import RegularizedModel, RegularizedPanopticFPN, RegularizedSemanticSegmentor

__all__ = [
    "REGULARIZER_REGISTRY",
    "RegularizedModel",
    "RegularizedPanopticFPN",
    "RegularizedSemanticSegmentor",
    "build_regularizers",
]
