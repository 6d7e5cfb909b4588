"""Semantic heads beside detectron2's own, by MODEL.SEM_SEG_HEAD.NAME, and the auxiliary head."""

from .auxiliary import auxiliary_loss, build_auxiliary_head
from .base import Predictor, SemanticHead
from .fcn import FCNHead
from .nonlocal_head import NonLocal, NonLocalHead
from .ocr import ObjectAttention, OCRHead, gather_regions
from .segformer import SegFormerHead
from .upernet import UPerNetHead

__all__ = [
    "FCNHead",
    "NonLocal",
    "NonLocalHead",
    "OCRHead",
    "ObjectAttention",
    "Predictor",
    "SegFormerHead",
    "SemanticHead",
    "UPerNetHead",
    "auxiliary_loss",
    "build_auxiliary_head",
    "gather_regions",
]
