"""Losses that make the features of a class compact and classes well separated.

Plain PyTorch: nothing here imports detectron2. Each regularizer is a module called as
`regularizer(embeddings, labels, classifier)` that returns a dict of scalar losses, on pixels
(N, C, H, W), points (N, C, L) or samples (N, C).
"""

from sar.regularizers.anchors import (
    gaussian_anchors,
    load_anchors,
    orthogonal_anchors,
    simplex_etf_anchors,
)
from sar.regularizers.center_collapse import CenterCollapseRegularizer
from sar.regularizers.center_loss import CenterLossRegularizer
from sar.regularizers.class_aware import ClassAwareRegularizer
from sar.regularizers.embedding_tap import tap_embeddings
from sar.regularizers.prototype import PrototypeRegularizer
from sar.regularizers.prototype_contrast import PrototypeContrastRegularizer
from sar.regularizers.semantic_anchor import SemanticAnchorRegularizer
from sar.regularizers.simplex_etf import simplex_etf

__all__ = [
    "CenterCollapseRegularizer",
    "CenterLossRegularizer",
    "ClassAwareRegularizer",
    "PrototypeContrastRegularizer",
    "PrototypeRegularizer",
    "SemanticAnchorRegularizer",
    "gaussian_anchors",
    "load_anchors",
    "orthogonal_anchors",
    "simplex_etf",
    "simplex_etf_anchors",
    "tap_embeddings",
]
