"""Regularizers for long-tailed semantic segmentation, in detectron2 or any PyTorch training loop.

Import it before detectron2: it lets release 0.6 run on current NumPy and Pillow (`sar.compat`).
`sar.regularizers` does not need detectron2; everything else does.
"""

from sar import compat

__version__ = "0.1.0"
__all__ = ["add_sar_config"]

compat.apply()


def __getattr__(name: str):
    # Late: config.py imports detectron2, which sar.regularizers does not need.
    if name == "add_sar_config":
        from sar.config import add_sar_config

        return add_sar_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
