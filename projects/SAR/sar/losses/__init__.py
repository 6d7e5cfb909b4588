"""Losses for long-tailed semantic segmentation, in plain PyTorch.

Each criterion is a module. It is called with logits (N, K, h, w), labels (N, H, W) and the stride
of the logits, and it returns a scalar. All but `HardPixelMining` are means over the valid pixels of
all processes. Without a valid pixel, a loss is 0 and its gradient is 0.
"""

from sar.losses.class_weights import (
    CLASS_WEIGHTS,
    enet_weights,
    inverse_frequency_weights,
    median_frequency_weights,
)
from sar.losses.cross_entropy import CrossEntropy
from sar.losses.hard_pixel_mining import HardPixelMining
from sar.losses.logit_adjustment import LogitAdjustment
from sar.losses.seesaw import Seesaw

__all__ = [
    "CLASS_WEIGHTS",
    "CrossEntropy",
    "HardPixelMining",
    "LogitAdjustment",
    "Seesaw",
    "enet_weights",
    "inverse_frequency_weights",
    "median_frequency_weights",
]
