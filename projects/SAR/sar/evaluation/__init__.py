"""Measuring long-tailed segmentation: the evaluator, its metrics, class groups,
geometry of the feature space, and table."""

from .evaluator import LongTailEvaluator
from .geometry import FeatureGeometry
from .tap import tap_evaluation

__all__ = ["FeatureGeometry", "LongTailEvaluator", "tap_evaluation"]
