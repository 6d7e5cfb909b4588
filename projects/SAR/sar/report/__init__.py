"""A page that compares runs: what they measured, and what their models make of the same images."""

from sar.report.compare import compare
from sar.report.page import render
from sar.report.runs import Run, find_runs

__all__ = ["Run", "compare", "find_runs", "render"]
