"""Advice on the length of a training: steps per epoch, epochs, and samples of the rarest class."""

import math
from collections.abc import Sequence

from sar.advice.item import Advice
from sar.data.class_frequency import ClassFrequency
from sar.data.tail import class_repeat_factors, tail_by_image
from sar.data.units import units_of_config
from sar.errors import printable
from sar.solver import longest_warmup

from detectron2.config import CfgNode

# Rare classes are learned late, so a shorter training misses them.
_FEWEST_EPOCHS, _ENOUGH_EPOCHS = 20, 40
# A longer training costs time, and overfits the few images of rare classes.
_MOST_EPOCHS, _MANY_EPOCHS = 200, 100
_FEWEST_STEPS = 1000
_ROUND = 100  # advised numbers of steps are multiples of it


def advise_on_schedule(
    frequency: ClassFrequency,
    shown: Sequence[Sequence[int]],
    cfg: CfgNode,
    keys: dict[str, str],
) -> Advice:
    """Return advice on SOLVER.MAX_ITER.

    Args:
        frequency: counts of a training set.
        shown: the classes that each of its images shows.
        cfg: the config of the training.
        keys: advised keys, which replace values of the config.
    """
    sampler = keys.get("DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN)
    threshold = float(keys.get("DATALOADER.REPEAT_THRESHOLD", cfg.DATALOADER.REPEAT_THRESHOLD))
    repeats = sampler == "RepeatFactorTrainingSampler"
    of_classes = class_repeat_factors(frequency, threshold if repeats else 0)
    factors = [max((of_classes[k] for k in classes), default=1.0) for classes in shown]

    batch, steps = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER
    epoch = sum(factors) / batch
    epochs = steps / epoch
    rarest = tail_by_image(frequency).least
    samples = sum(f for f, classes in zip(factors, shown, strict=True) if rarest in classes)
    units = units_of_config(cfg)
    images = f"{len(shown)} {units.sample}s"
    if repeats:
        images += f" ({sum(factors):,.0f} with repetitions)"
    number = max(round(epoch), 1)
    text = (
        f"An epoch has {images}, or {number:,} step{'s' if number > 1 else ''} of {batch}. "
        f"SOLVER.MAX_ITER {steps} is {epochs:,.{1 if epochs < 10 else 0}f} epochs, in which "
        f"{printable(frequency.class_names[rarest])} is {units.on} {round(epochs * samples):,} of "
        f"{steps * batch:,} samples."
    )
    new_steps = steps
    if epochs < _FEWEST_EPOCHS:
        new_steps = _rounded(_ENOUGH_EPOCHS * epoch)
        text += " This is short: rare classes are learned late."
    elif epochs > _MOST_EPOCHS:
        new_steps = min(max(_rounded(_MANY_EPOCHS * epoch), _FEWEST_STEPS), steps)
        text += " This is long: try fewer first."
    advised = {} if new_steps == steps else {"SOLVER.MAX_ITER": str(new_steps)}
    if advised and cfg.SOLVER.WARMUP_ITERS > longest_warmup(new_steps):
        advised["SOLVER.WARMUP_ITERS"] = str(longest_warmup(new_steps))
    return Advice("schedule", text, advised)


def _rounded(steps: float) -> int:
    return math.ceil(steps / _ROUND) * _ROUND
