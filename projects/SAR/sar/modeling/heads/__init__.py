"""Semantic heads that detectron2 lacks (MODEL.SEM_SEG_HEAD.NAME), and the auxiliary head."""

from sar.modeling.heads.auxiliary import auxiliary_loss, build_auxiliary_head
from sar.modeling.heads.base import Predictor, SemanticHead
from sar.modeling.heads.fcn import FCNHead
from sar.modeling.heads.ocr import ObjectAttention, OCRHead, gather_regions
from sar.modeling.heads.segformer import SegFormerHead
from sar.modeling.heads.upernet import UPerNetHead

__all__ = [
    "FCNHead",
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
