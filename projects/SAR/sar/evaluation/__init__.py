"""Measure long-tailed segmentation: evaluator, metrics, class groups and feature geometry."""

from sar.evaluation.embeddings import tap_evaluation
from sar.evaluation.evaluator import LongTailEvaluator
from sar.evaluation.geometry import FeatureGeometry

__all__ = ["FeatureGeometry", "LongTailEvaluator", "tap_evaluation"]
