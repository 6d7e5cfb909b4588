"""A page that compares runs: what they measured, and what their models make of the same images."""

from .compare import compare
from .page import render
from .runs import Run, find_runs

__all__ = ["Run", "compare", "find_runs", "render"]
