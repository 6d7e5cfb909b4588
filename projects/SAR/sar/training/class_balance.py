"""Describe how a training balances its classes: class weights and repeated images."""

import torch
from tabulate import tabulate
from torch import nn

from sar.data.class_frequency import ClassFrequency
from sar.data.tail import class_repeat_factors
from sar.data.units import IMAGES, units_of_config
from sar.errors import printable
from sar.modeling.head_loss import SegmentationLoss

from detectron2.config import CfgNode

MAX_ROWS = 20  # of the table; with more classes, the ones in the middle are left out


def describe_balance(cfg: CfgNode, model: nn.Module, frequency: ClassFrequency) -> str:
    """Return a table of the class weights and repeat factors of a training.

    The most frequent class comes first. With more than MAX_ROWS classes, the table has the most and
    the least frequent ones.

    Args:
        model: its loss has the weights.
        frequency: counts of the training set, for K classes.

    Returns:
        The table, with a title; "" for a training without class weights and repeated images.
    """
    num_classes, units = len(frequency.class_names), units_of_config(cfg)
    columns = {
        "class": list(map(printable, frequency.class_names)),
        f"% of {units.sample}s": [
            f"{100 * n / frequency.num_images:.3g}" for n in frequency.images
        ],
        f"% of {units.part}s": [f"{100 * n / sum(frequency.pixels):.3g}" for n in frequency.pixels],
    }
    title = []
    if (weights := class_weights_of(model, num_classes)) is not None:
        columns["weight"] = [f"{weight:.3g}" for weight in weights.tolist()]
        title.append("class weights")
    if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        sampling = cfg.DATALOADER
        factors = class_repeat_factors(
            frequency, sampling.REPEAT_THRESHOLD, sqrt=sampling.get("REPEAT_SQRT", True)
        )
        columns["repeat factor"] = [f"{factor:.3g}" for factor in factors]
        a = "an image" if units is IMAGES else f"a {units.sample}"
        title.append(f"repeat factors ({a} takes the largest of its classes)")
    if not title:
        return ""
    order = sorted(range(num_classes), key=lambda k: (-frequency.images[k], -frequency.pixels[k]))
    rows = [[column[k] for column in columns.values()] for k in order]
    if num_classes > MAX_ROWS:
        half = MAX_ROWS // 2
        rows[half:-half] = [[f"... {num_classes - 2 * half} more", *[""] * (len(columns) - 1)]]
    align = ("left", *["right"] * (len(columns) - 1))
    table = tabulate(rows, list(columns), disable_numparse=True, colalign=align)
    return f"{' and '.join(title)}:\n{table}"


def class_weights_of(model: nn.Module, num_classes: int) -> torch.Tensor | None:
    """Return the class weights (K,) of a model's loss, or None if it has none."""
    losses = [module for module in model.modules() if isinstance(module, SegmentationLoss)]
    for loss in losses:
        for name, buffer in loss.named_buffers():
            if name.split(".")[-1] == "weights" and buffer.shape == (num_classes,):
                return buffer
    return None
