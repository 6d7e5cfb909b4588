"""Losses for long-tailed semantic segmentation, in plain PyTorch.

Each criterion is a module. It is called with logits (N, K, h, w), labels (N, H, W) and the stride
of the logits, and it returns a scalar. Logits (M, K) and labels (M,) of samples, such as points,
work too. Half precision becomes float32. Without a valid pixel, a loss is 0 and its gradient is 0.

Losses are computed over the valid pixels of all processes. The exceptions are `HardPixelMining` and
`Lovasz`, which need the order of the pixels: there, each process takes its own.
"""

from sar.losses.class_weights import (
    CLASS_WEIGHTS,
    effective_number_weights,
    enet_weights,
    inverse_frequency_weights,
    median_frequency_weights,
)
from sar.losses.cross_entropy import CrossEntropy
from sar.losses.dice import Dice
from sar.losses.focal import Focal
from sar.losses.hard_pixel_mining import HardPixelMining
from sar.losses.logit_adjustment import LogitAdjustment
from sar.losses.lovasz import Lovasz
from sar.losses.seesaw import Seesaw
from sar.losses.weighted_sum import WeightedSum

__all__ = [
    "CLASS_WEIGHTS",
    "CrossEntropy",
    "Dice",
    "Focal",
    "HardPixelMining",
    "LogitAdjustment",
    "Lovasz",
    "Seesaw",
    "WeightedSum",
    "effective_number_weights",
    "enet_weights",
    "inverse_frequency_weights",
    "median_frequency_weights",
]
