"""The folder that holds the data sets."""

import os


def root() -> str:
    """Return DETECTRON2_DATASETS, or "datasets" if it is not set."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS") or "datasets")
