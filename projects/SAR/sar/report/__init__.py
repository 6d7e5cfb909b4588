"""Page that compares runs: their metrics, and the outputs of their models on the same images."""

from sar.report.compare import compare, warnings_of
from sar.report.page import render
from sar.report.runs import Run, find_runs

__all__ = ["Run", "compare", "find_runs", "render", "warnings_of"]
