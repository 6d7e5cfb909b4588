"""Measuring long-tailed segmentation: the evaluator, its metrics, class groups and table."""

from .evaluator import LongTailEvaluator

__all__ = ["LongTailEvaluator"]
