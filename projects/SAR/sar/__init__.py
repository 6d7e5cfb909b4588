"""Regularizers for long-tailed semantic segmentation, in detectron2 or any PyTorch training loop.

Import it before detectron2: it lets release 0.6 run on today's NumPy and Pillow (`sar.compat`).
`sar.regularizers` needs no detectron2; everything else does.
"""

from sar import compat

__version__ = "0.1.0"
__all__ = ["add_sar_config"]

compat.apply()


def __getattr__(name: str):
    # On demand, since config.py imports detectron2, which users of sar.regularizers may not have.
    if name == "add_sar_config":
        from sar.config import add_sar_config

        return add_sar_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
