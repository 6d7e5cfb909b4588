"""Models for detectron2. Importing this registers the meta-architecture, and DeepLab's heads."""

import detectron2.projects.deeplab  # noqa: F401  registers its heads and backbone

from .regularizers import REGULARIZER_REGISTRY, build_regularizers
from .segmentor import RegularizedSemanticSegmentor

__all__ = ["REGULARIZER_REGISTRY", "RegularizedSemanticSegmentor", "build_regularizers"]
