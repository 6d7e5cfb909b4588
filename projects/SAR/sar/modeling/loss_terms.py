"""Build the criterion that MODEL.LOSS describes: one loss, or a weighted sum of losses."""

import math

import torch
from torch import nn

from sar.data.class_frequency import ClassFrequency, class_frequency_of
from sar.errors import InputError, nearest, shortened
from sar.losses import (
    CLASS_WEIGHTS,
    CrossEntropy,
    Dice,
    Focal,
    HardPixelMining,
    LogitAdjustment,
    Lovasz,
    Seesaw,
    WeightedSum,
)

from detectron2.config import CfgNode

LOSSES = (
    "cross_entropy",
    "hard_pixel_mining",
    "focal",
    "logit_adjustment",
    "seesaw",
    "dice",
    "lovasz",
)
# The losses that use class weights.
WEIGHTED_LOSSES = ("cross_entropy", "hard_pixel_mining", "focal")


def loss_terms(cfg: CfgNode) -> dict[str, float]:
    """Return the factor of each loss in MODEL.LOSS.NAME, by name; {} for "".

    The losses of "cross_entropy + 0.5 * dice" have the factors 1 and 0.5.

    Raises:
        InputError: a loss is unknown or named twice, or a factor is not a positive number.
    """
    text = cfg.MODEL.LOSS.NAME
    terms = {}
    for part in text.split("+") if text.strip() else ():
        factor, has_factor, name = (word.strip() for word in part.rpartition("*"))
        if name not in LOSSES:
            raise InputError(
                f"MODEL.LOSS.NAME {shortened(text)}: unknown loss {shortened(name)}."
                f"{nearest(name, LOSSES)} Known are {', '.join(LOSSES)}, sums such as "
                '"cross_entropy + 0.5 * dice", and "" for the loss of the head'
            )
        if name in terms:
            raise InputError(f"MODEL.LOSS.NAME {shortened(text)} has {name} twice: name it once")
        terms[name] = _positive(factor, text) if has_factor else 1.0
    return terms


def _positive(word: str, text: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InputError(
            f"MODEL.LOSS.NAME {shortened(text)}: the factor is {shortened(word)}, expected a "
            'positive number, as in "cross_entropy + 0.5 * dice"'
        )
    return number


def check_loss(cfg: CfgNode) -> None:
    """Check the keys of MODEL.LOSS.

    Raises:
        InputError: a name is unknown, no loss uses the class weights, or a number is out of range.
    """
    loss, terms = cfg.MODEL.LOSS, loss_terms(cfg)
    name, own = loss.CLASS_WEIGHTS, loss.OWN_CLASS_WEIGHTS
    if name and name not in CLASS_WEIGHTS:
        raise InputError(
            f'unknown MODEL.LOSS.CLASS_WEIGHTS "{name}".{nearest(name, CLASS_WEIGHTS)} Known are '
            f'{", ".join(CLASS_WEIGHTS)}, and "" for none. Numbers of your own belong into '
            "MODEL.LOSS.OWN_CLASS_WEIGHTS"
        )
    if name and own:
        raise InputError(
            f'MODEL.LOSS.CLASS_WEIGHTS is "{name}", but MODEL.LOSS.OWN_CLASS_WEIGHTS also has '
            "weights: set one of them, and the other to its default"
        )
    if (name or own) and terms.keys().isdisjoint(WEIGHTED_LOSSES):
        key, value = ("CLASS_WEIGHTS", name) if name else ("OWN_CLASS_WEIGHTS", list(own))
        raise InputError(
            f"MODEL.LOSS.{key} {shortened(value)} has no effect with MODEL.LOSS.NAME "
            f'"{loss.NAME}": set MODEL.LOSS.NAME to {" or ".join(WEIGHTED_LOSSES)}'
        )
    for key, is_possible, expected in (
        ("OWN_CLASS_WEIGHTS", all(0 <= w < math.inf for w in own), "numbers, 0 or more"),
        ("OWN_CLASS_WEIGHTS", not own or any(own), "a number above 0"),
        ("BETA", 0 <= loss.BETA < 1, "0 or more, below 1"),
        ("GAMMA", 0 <= loss.GAMMA < math.inf, "0 or more"),
        ("TAU", 0 <= loss.TAU < math.inf, "0 or more"),
        ("TOP_K", 0 < loss.TOP_K <= 1, "above 0, up to 1"),
        ("SEESAW_P", 0 <= loss.SEESAW_P < math.inf, "0 or more"),
        ("SEESAW_Q", 0 <= loss.SEESAW_Q < math.inf, "0 or more"),
    ):
        if not is_possible:
            raise InputError(f"MODEL.LOSS.{key} is {loss[key]}, expected {expected}")


def check_number_of_weights(cfg: CfgNode) -> None:
    """Raise InputError if MODEL.LOSS.OWN_CLASS_WEIGHTS has not one number for each class."""
    found, expected = len(cfg.MODEL.LOSS.OWN_CLASS_WEIGHTS), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if found not in (0, expected):
        raise InputError(
            f"MODEL.LOSS.OWN_CLASS_WEIGHTS has {found} numbers, expected {expected}: give one for "
            "each class (MODEL.SEM_SEG_HEAD.NUM_CLASSES), in the order of their ids"
        )


def build_criterion(cfg: CfgNode, ignore_value: int) -> nn.Module | None:
    """Return the loss that MODEL.LOSS.NAME names, or a `WeightedSum` if it names several.

    The factor of a single loss is not included.

    Returns:
        The criterion; None if it needs class counts, and they are unknown.

    Raises:
        InputError: the class-frequency file is missing or wrong, or the number of class weights
            differs from the number of classes.
    """
    check_number_of_weights(cfg)
    loss, terms = cfg.MODEL.LOSS, loss_terms(cfg)
    counts = None
    if loss.CLASS_WEIGHTS or "logit_adjustment" in terms:
        counts = class_frequency_of(cfg)
        if counts is None:
            return None
    weights = _class_weights(loss, counts)
    builders = {
        "cross_entropy": lambda: CrossEntropy(ignore_value, weights, fused=loss.FUSED),
        "hard_pixel_mining": lambda: HardPixelMining(
            ignore_value, loss.TOP_K, weights, fused=loss.FUSED
        ),
        "focal": lambda: Focal(ignore_value, loss.GAMMA, weights, fused=loss.FUSED),
        "logit_adjustment": lambda: LogitAdjustment(
            torch.tensor(counts.pixels), ignore_value, loss.TAU, fused=loss.FUSED
        ),
        "seesaw": lambda: Seesaw(
            cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, ignore_value, p=loss.SEESAW_P, q=loss.SEESAW_Q
        ),
        "dice": lambda: Dice(ignore_value),
        "lovasz": lambda: Lovasz(ignore_value),
    }
    criteria = {name: (factor, builders[name]()) for name, factor in terms.items()}
    if len(criteria) == 1:
        ((_, criterion),) = criteria.values()
        return criterion
    return WeightedSum(criteria)


def _class_weights(loss: CfgNode, counts: ClassFrequency | None) -> torch.Tensor | None:
    """Return the class weights (K,) of MODEL.LOSS in float32, or None."""
    if loss.OWN_CLASS_WEIGHTS:
        return torch.tensor(loss.OWN_CLASS_WEIGHTS, dtype=torch.float32)
    if not loss.CLASS_WEIGHTS:
        return None
    options = {"beta": loss.BETA} if loss.CLASS_WEIGHTS == "effective_number" else {}
    return CLASS_WEIGHTS[loss.CLASS_WEIGHTS](counts.pixels, counts.images, **options).float()
