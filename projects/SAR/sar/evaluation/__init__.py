"""Measuring long-tailed segmentation: the evaluator, its metrics, class groups,
geometry of the feature space, and table."""

from sar.evaluation.embeddings import tap_evaluation
from sar.evaluation.evaluator import LongTailEvaluator
from sar.evaluation.geometry import FeatureGeometry

__all__ = ["FeatureGeometry", "LongTailEvaluator", "tap_evaluation"]
