"""Advice on rare classes: in which sense they are rare, and which re-weighting can help.

The rules and their reasons are in docs/findings.md.
"""

from sar.advice.item import Advice
from sar.data.class_frequency import ClassFrequency
from sar.data.tail import (
    RARE_BY_IMAGE,
    RARE_BY_PIXEL,
    Tail,
    class_repeat_factors,
    describe_ratio,
    percent,
    tail_by_image,
    tail_by_pixel,
)
from sar.data.units import CLOUDS, Units, units_of_config
from sar.errors import listed, printable
from sar.losses.class_weights import CLASS_WEIGHTS
from sar.modeling.loss_terms import WEIGHTED_LOSSES, loss_terms

from detectron2.config import CfgNode

REPEAT = {
    "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
    "DATALOADER.REPEAT_THRESHOLD": "1.0",
}
# Smaller repeat factors repeat hardly any image.
_LEAST_FACTOR = 1.1
# Class weights, the first choice first. Weights that differ more than this many times do harm.
_CHOICES = ("median_frequency", "enet")
_MOST_DIFFERENT = 100
_WEIGHTS_KEY = "MODEL.LOSS.CLASS_WEIGHTS"
LOVASZ = {"MODEL.LOSS.NAME": "cross_entropy + 0.5 * lovasz"}
# Largest weight of SAR's pull over classes, next to one re-weighting and next to two.
_PULL_WEIGHTS = ("0.1", "0.03")


def advise_on_balance(frequency: ClassFrequency, cfg: CfgNode) -> list[Advice]:
    """Return advice on the tails by image and by pixel, on rare classes, and on the recipe.

    Args:
        frequency: counts of a training set. At least two classes have pixels.
        cfg: the config of the training. The keys of the advice are the ones that it lacks.
    """
    by_image, by_pixel = tail_by_image(frequency), tail_by_pixel(frequency)
    units = units_of_config(cfg)
    return [
        Advice(f"tail by {units.sample}", _describe_images(frequency, by_image, units)),
        Advice(f"tail by {units.part}", _describe_pixels(frequency, by_pixel, units)),
        Advice("rare classes", _describe_rare(frequency, by_image, by_pixel, units)),
        Advice(f"repeat {units.sample}s", _describe_repeats(frequency, by_image, units)),
        Advice("class weights", _describe_weights(frequency, by_pixel, units)),
        _recipe(frequency, by_image, by_pixel, cfg),
    ]


def has_rare_classes(frequency: ClassFrequency) -> bool:
    """Return True if a class is rare by image or by pixel, so that a recipe can help."""
    return bool(tail_by_image(frequency).rare or tail_by_pixel(frequency).rare)


def _describe_images(frequency: ClassFrequency, tail: Tail, units: Units) -> str:
    names, images, number = _names(frequency), frequency.images, frequency.num_images
    return (
        f"{_length(tail)}. {names[tail.most]} is {units.on} {images[tail.most]} of {number} "
        f"{units.sample}s, {names[tail.least]} {units.on} {images[tail.least]} "
        f"({percent(images[tail.least] / number)})."
    )


def _describe_pixels(frequency: ClassFrequency, tail: Tail, units: Units) -> str:
    names, pixels, number = _names(frequency), frequency.pixels, sum(frequency.pixels)
    most, least = tail.most, tail.least
    return (
        f"{_length(tail)}. {names[most]} has {percent(pixels[most] / number)} of the labelled "
        f"{units.part}s, {names[least]} {percent(pixels[least] / number)}. For each {units.part} "
        f"of {names[least]}, the loss sums over {max(round(tail.ratio), 1):,} of {names[most]}."
    )


def _describe_rare(frequency: ClassFrequency, by_image: Tail, by_pixel: Tail, units: Units) -> str:
    names, sample, part = _names(frequency), units.sample, units.part
    few = f"{units.on} less than {percent(RARE_BY_IMAGE)} of the {sample}s"
    small = f"less than {percent(RARE_BY_PIXEL)} of an equal share of the {part}s"
    both = [k for k in by_pixel.rare if k in by_image.rare]
    parts = [
        (both, f"by {sample} and by {part} ({few}; {small})"),
        ([k for k in by_image.rare if k not in both], f"by {sample} only ({few}, but large)"),
        (
            [k for k in by_pixel.rare if k not in both],
            f"by {part} only ({small}, {units.on} many {sample}s)",
        ),
    ]
    sentences = [
        f"Rare {sense}: {listed([names[k] for k in classes])}."
        for classes, sense in parts
        if classes
    ]
    return " ".join(sentences) or f"None: no class is {few}, and none has {small}."


def _describe_repeats(frequency: ClassFrequency, tail: Tail, units: Units) -> str:
    names = _names(frequency)
    factors = class_repeat_factors(frequency, float(REPEAT["DATALOADER.REPEAT_THRESHOLD"]))
    share = percent(frequency.images[tail.least] / frequency.num_images)
    name, factor = names[tail.least], f"{factors[tail.least]:.1f} times"
    if tail.rare:
        return (
            f"Can help: repeat-factor sampling shows the {units.sample}s of {name} {factor} in an "
            "epoch (DATALOADER.REPEAT_THRESHOLD 1.0)."
        )
    many = f"even {name}, {units.on} the fewest {units.sample}s, is {units.on} {share} of them"
    if factors[tail.least] < _LEAST_FACTOR:
        return f"Cannot help: {many}, so hardly any {units.sample} would be repeated."
    return f"Cannot help: {many}. An epoch would show them {factor} instead of once."


def _describe_weights(frequency: ClassFrequency, tail: Tail, units: Units) -> str:
    if not tail.rare:
        return f"Not needed: no class is rare by {units.part}."
    names, kind = _names(frequency), _fitting_weights(frequency)
    weights = CLASS_WEIGHTS[kind](frequency.pixels, frequency.images).tolist()
    times = f"{weights[tail.least] / weights[tail.most]:,.0f} times"
    text = (
        f"Can help: with {_WEIGHTS_KEY} {kind}, a {units.part} of {names[tail.least]} counts "
        f"{times} as much as a {units.part} of {names[tail.most]}. Frequent classes may lose some "
        "IoU."
    )
    if kind != _CHOICES[0]:
        ratio = _largest_ratio(_CHOICES[0], frequency)
        text += f" The weights of {_CHOICES[0]} would differ {ratio:,.0f} times, which is too much."
    return text


def _fitting_weights(frequency: ClassFrequency, kinds: tuple[str, ...] = _CHOICES) -> str:
    """Return the first kind of class weights that do not differ too much."""
    return next(kind for kind in kinds if _largest_ratio(kind, frequency) <= _MOST_DIFFERENT)


def _largest_ratio(kind: str, frequency: ClassFrequency) -> float:
    """Return the largest class weight divided by the smallest one, over the classes with pixels."""
    weights = CLASS_WEIGHTS[kind](frequency.pixels, frequency.images).tolist()
    present = [weight for weight, n in zip(weights, frequency.pixels, strict=True) if n]
    return max(present) / min(present)


def _recipe(frequency: ClassFrequency, by_image: Tail, by_pixel: Tail, cfg: CfgNode) -> Advice:
    """Return the re-weighting that fits the tails, with the keys that the config lacks.

    Repeated images come first, if they can help. Lovász-softmax is for all classes that are rare by
    pixel, class weights only for those on many images. In point clouds, class weights are for all
    classes that are rare by point.
    """
    loss, anchor = cfg.MODEL.LOSS, cfg.MODEL.SEMANTIC_ANCHOR
    repeats, has_lovasz = bool(by_image.rare), "lovasz" in loss_terms(cfg)
    needs_lovasz = bool(by_pixel.rare) and _can_add_lovasz(cfg)
    needs_weights = bool(by_pixel.rare) and (
        units_of_config(cfg) is CLOUDS or not (repeats or has_lovasz)
    )
    keys = {}
    if repeats != (cfg.DATALOADER.SAMPLER_TRAIN == REPEAT["DATALOADER.SAMPLER_TRAIN"]):
        keys |= REPEAT if repeats else {"DATALOADER.SAMPLER_TRAIN": "TrainingSampler"}
    if by_pixel.rare and cfg.MODEL.TAP.MATCHER and not repeats:  # it classifies queries
        text = "The plain model: it has a criterion of its own, which MODEL.LOSS cannot replace."
        return Advice("recipe", text, recipe=keys)
    if not (repeats or by_pixel.rare):
        text = "The plain model: no class is rare, so a re-weighting has nothing to correct."
        return Advice("recipe", text, recipe=keys)
    keys |= LOVASZ if needs_lovasz else _weight_keys(frequency, cfg, is_needed=needs_weights)
    has_weights = bool(keys.get(_WEIGHTS_KEY, loss.CLASS_WEIGHTS) or loss.OWN_CLASS_WEIGHTS)
    pulls_classes = anchor.PULL_OVER == "classes"
    if "SemanticAnchorRegularizer" in cfg.MODEL.REGULARIZERS and pulls_classes:
        most = _PULL_WEIGHTS[repeats and has_weights]
        if anchor.PULL_WEIGHT > float(most):
            keys["MODEL.SEMANTIC_ANCHOR.PULL_WEIGHT"] = most
    names = ["repeat-factor sampling"] * repeats
    if has_lovasz or not has_weights and (needs_weights or needs_lovasz):
        names.append(f"the loss {keys.get('MODEL.LOSS.NAME', loss.NAME)}")
    if has_weights:
        names.append("class weights")
    text = " with ".join([names[0], " and ".join(names[1:])]) if names[1:] else names[0]
    text = f"{text[0].upper()}{text[1:]}."
    if by_pixel.rare and not has_weights:
        gain = "mIoU@r further" if repeats else "mIoU@r_pixel, too"
        text += f" Class weights may raise {gain}, and lower mIoU."
    text += (
        f" Train the plain model too, and compare {'mIoU@r' if repeats else 'mIoU@r_pixel'}. "
        "docs/findings.md says how certain this is."
    )
    return Advice("recipe", text, recipe=keys)


def _can_add_lovasz(cfg: CfgNode) -> bool:
    """Return True for a pretrained model of images that trains with plain cross-entropy.

    The head of Panoptic-DeepLab weights its pixels, so it cannot take Lovász-softmax. Models that
    classify queries have a criterion of their own.
    """
    model, loss = cfg.MODEL, cfg.MODEL.LOSS
    is_pretrained = bool(model.WEIGHTS or model.TIMM.PRETRAINED or model.TIMM.CHECKPOINT)
    is_plain = loss_terms(cfg).keys() <= {"cross_entropy"}
    is_plain = is_plain and not (loss.CLASS_WEIGHTS or loss.OWN_CLASS_WEIGHTS)
    is_possible = not (
        model.TAP.MATCHER
        or model.SEM_SEG_HEAD.NAME.startswith("PanopticDeepLab")
        or units_of_config(cfg) is CLOUDS
    )
    return is_pretrained and is_plain and is_possible


def _weight_keys(frequency: ClassFrequency, cfg: CfgNode, *, is_needed: bool) -> dict[str, str]:
    """Return the keys of MODEL.LOSS for class weights that do not differ too much.

    Weights of the user's own, and losses that treat rare classes in another way, stay.
    """
    present, terms = cfg.MODEL.LOSS.CLASS_WEIGHTS, loss_terms(cfg)
    if cfg.MODEL.LOSS.OWN_CLASS_WEIGHTS:
        return {}
    if present:
        fitting = _fitting_weights(frequency, (present, *_CHOICES))
        return {} if fitting == present else {_WEIGHTS_KEY: fitting}
    if not is_needed or cfg.MODEL.TAP.MATCHER:
        return {}
    if terms and terms.keys().isdisjoint(WEIGHTED_LOSSES):
        return {}
    name = {} if terms else {"MODEL.LOSS.NAME": WEIGHTED_LOSSES[0]}
    return name | {_WEIGHTS_KEY: _fitting_weights(frequency)}


def _length(tail: Tail) -> str:
    return f"{'Long' if tail.is_long else 'Short'}, {describe_ratio(tail)}"


def _names(frequency: ClassFrequency) -> list[str]:
    return list(map(printable, frequency.class_names))
