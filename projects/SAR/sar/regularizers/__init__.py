"""Losses that make the features of a class compact and classes well separated.

Plain PyTorch: nothing here imports detectron2. Each regularizer is a module called as
`regularizer(embeddings, labels, classifier)` that returns a dict of scalar losses, on pixels
(N, C, H, W), points (N, C, L) or samples (N, C).
"""

from .anchors import gaussian_anchors, load_anchors, orthogonal_anchors, simplex_etf_anchors
from .center_collapse import CenterCollapseRegularizer
from .semantic_anchor import SemanticAnchorRegularizer
from .simplex_etf import simplex_etf

__all__ = [
    "CenterCollapseRegularizer",
    "SemanticAnchorRegularizer",
    "gaussian_anchors",
    "load_anchors",
    "orthogonal_anchors",
    "simplex_etf",
    "simplex_etf_anchors",
]
