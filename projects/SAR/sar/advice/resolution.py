"""Advice on resizing and crops: whether small objects survive them.

Shape shorthands: H x W pixels of an image.
"""

import math

import numpy as np

from sar.advice.item import Advice
from sar.data.augmentation import resize_shortest_edge
from sar.data.class_frequency import ClassFrequency
from sar.data.object_sizes import ObjectSize
from sar.errors import listed, printable

from detectron2.config import CfgNode

_STEP = 32  # advised sizes are multiples of it
# An image that is enlarged more than this costs time, and shows no more detail.
_MOST_ENLARGED = 4
# For narrow objects, images are enlarged up to this factor and this shorter edge.
_ENLARGED_FOR_OBJECTS, _LONGEST_ENLARGED = 2, 1024
# A range of sizes reaches this many times its lower end.
_LEAST_RANGE = 1.25
# A crop that shows a smaller part of its image misses many of the rare objects in it.
_SMALL_PART = 0.25
_LARGEST_CROP = 1024
_NUM_SIZES = 9  # sizes between the smallest and the largest, over which a mean is taken


def advise_on_resolution(
    frequency: ClassFrequency,
    sizes: dict[tuple[int, int], int],
    objects: dict[int, ObjectSize],
    cfg: CfgNode,
) -> list[Advice]:
    """Return advice on INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST and INPUT.CROP.

    An object survives if its width in the resized image is at least the stride of the model's
    output, MODEL.SEM_SEG_HEAD.COMMON_STRIDE.

    Args:
        frequency: counts of a training set.
        sizes: number of images of each size (H, W).
        objects: the typical object of each small class, by id.
        cfg: the config of the training.
    """
    shape = _median_shape(sizes)
    stride = cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
    needed = 0.0  # shorter edge of an image in which the narrowest object is as wide as the stride
    if objects:
        edge = min(shape)
        most = max(min(_ENLARGED_FOR_OBJECTS * edge, _LONGEST_ENLARGED), edge)
        needed = min(stride / min(size.width for size in objects.values()) * edge, most)
    low, high = _short_edges(cfg, shape)
    better = _better_range(low, high, min(shape), needed)
    keys = {}
    if better != (low, high):
        keys["INPUT.MIN_SIZE_TRAIN"] = "{},{}".format(*better)
        if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING != "range":
            keys["INPUT.MIN_SIZE_TRAIN_SAMPLING"] = "range"
        keys |= _longest_edge("INPUT.MAX_SIZE_TRAIN", cfg.INPUT.MAX_SIZE_TRAIN, shape, better[1])
    tested = min(_tested_shape(cfg, shape))
    items = [Advice("image size", _describe_size(shape, low, high, tested, better), keys)]
    if objects:
        text = _describe_objects(frequency, objects, min(shape), low, tested, stride)
        keys = {}
        if tested < needed:
            enlarged = _round_up(needed)
            keys["INPUT.MIN_SIZE_TEST"] = str(enlarged)
            keys |= _longest_edge("INPUT.MAX_SIZE_TEST", cfg.INPUT.MAX_SIZE_TEST, shape, enlarged)
        items.append(Advice("small objects", text, keys))
    return [*items, _advise_on_crop(shape, *better, cfg)]


def _longest_edge(key: str, limit: int, shape: tuple[int, int], shortest: int) -> dict[str, str]:
    """Return the key with a larger limit if an image with this shorter edge exceeds the limit."""
    longest = max(resize_shortest_edge(shape, shortest).scaled_shape)
    return {key: str(longest)} if limit < longest else {}


def _better_range(low: int, high: int, edge: int, needed: float) -> tuple[int, int]:
    """Return a range of shorter edges that keeps narrow objects, and does not enlarge too much.

    Args:
        low, high: the shortest and the longest edge after resizing.
        edge: the shorter edge of an image.
        needed: the length that the narrowest object needs.
    """
    if high > _MOST_ENLARGED * edge:
        low, high = _round_up(edge / 2), _round_up(2 * edge)
    if low < needed:
        low = _round_up(needed)
        high = max(high, _round_up(_LEAST_RANGE * low))
    return low, high


def _describe_size(
    shape: tuple[int, int], low: int, high: int, tested: int, better: tuple[int, int]
) -> str:
    edge = min(shape)
    test = (
        "keeps it" if tested == edge else f"resizes it to {tested} ({_times(tested, edge)} times)"
    )
    text = (
        f"The median image has {shape[1]} x {shape[0]} pixels (width x height). Training resizes "
        f"the shorter edge to {low}-{high} pixels, {_times(low, edge)} to {_times(high, edge)} "
        f"times its size. Evaluation {test}."
    )
    if better[1] < high:
        text += f" More than {_MOST_ENLARGED} times costs time, and shows no more detail."
    return text


def _describe_objects(
    frequency: ClassFrequency,
    objects: dict[int, ObjectSize],
    edge: int,
    low: int,
    tested: int,
    stride: int,
) -> str:
    """Return the widths of objects, and the classes that are too narrow after resizing.

    Args:
        edge, low, tested: the shorter edge of an image, of its smallest form in training, and of
            its form in evaluation.
    """
    names = {k: printable(name) for k, name in enumerate(frequency.class_names)}
    by_width = sorted(objects, key=lambda k: objects[k].width)
    widths = [f"{names[k]} {objects[k].width:g}" for k in by_width]
    text = (
        f"Typical widths in pixels: {listed(widths)}. As a rule, an object needs at least {stride} "
        "pixels, the stride of the model."
    )
    for where, size in (("the smallest training images", low), ("evaluation", tested)):
        scale = size / edge
        narrow = [
            f"{names[k]} ({objects[k].width * scale:.1f})"
            for k in by_width
            if objects[k].width * scale < stride
        ]
        if narrow:
            text += f" In {where}, these are narrower: {listed(narrow)}."
        else:
            text += f" In {where}, all are at least {stride} pixels wide."
    return text


def _advise_on_crop(shape: tuple[int, int], low: int, high: int, cfg: CfgNode) -> Advice:
    """Return advice on the crop of images that are resized to edges from `low` to `high`."""
    crop = cfg.INPUT.CROP
    if not crop.ENABLED or crop.TYPE != "absolute":
        size = "have no fixed size in pixels" if crop.ENABLED else "are not used"
        return Advice("crop", f"Crops {size} (INPUT.CROP).")
    height, width = crop.SIZE
    scales = np.linspace(low, high, _NUM_SIZES) / min(shape)
    part = np.mean([_part(height, width, shape, scale) for scale in scales])
    text = f"A crop of {width} x {height} pixels shows {part:.0%} of a resized image on average."
    side = _round_up(high)
    if min(height, width) > side:
        text += (
            f" The shorter edge has at most {high} pixels, and padding fills the rest of the crop."
        )
        return Advice("crop", text, {"INPUT.CROP.SIZE": f"{side},{side}"})
    if part < _SMALL_PART:
        if not crop.CLASS_UNIFORM:
            text += (
                " It misses many rare objects of its image. INPUT.CROP.CLASS_UNIFORM 0.5 draws "
                "half of the crops around a random class."
            )
        half = _round_up(scales.mean() * math.sqrt(shape[0] * shape[1] / 2))
        larger = min(half, _LARGEST_CROP)
        if larger * larger > height * width:
            text += (
                f" If the memory allows it, set INPUT.CROP.SIZE {larger},{larger}, which needs "
                f"{larger * larger / (height * width):.1f} times as much."
            )
    return Advice("crop", text)


def _part(height: int, width: int, shape: tuple[int, int], scale: float) -> float:
    """Return the part of an image, resized by `scale`, that a crop shows."""
    rows, columns = (edge * scale for edge in shape)
    return min(height / rows, 1) * min(width / columns, 1)


def _median_shape(sizes: dict[tuple[int, int], int]) -> tuple[int, int]:
    """Return the size (H, W) of the image whose shorter edge is the median."""
    ordered = sorted(sizes, key=min)
    below = np.cumsum([sizes[shape] for shape in ordered])
    return ordered[np.searchsorted(below, below[-1] / 2)]


def _short_edges(cfg: CfgNode, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shortest and the longest edge to which training resizes the shorter edge."""
    edges = cfg.INPUT.MIN_SIZE_TRAIN
    longest = cfg.INPUT.MAX_SIZE_TRAIN
    return tuple(
        min(resize_shortest_edge(shape, edge, longest).scaled_shape)
        for edge in (min(edges), max(edges))
    )


def _tested_shape(cfg: CfgNode, shape: tuple[int, int]) -> tuple[int, int]:
    inputs = cfg.INPUT
    return resize_shortest_edge(shape, inputs.MIN_SIZE_TEST, inputs.MAX_SIZE_TEST).scaled_shape


def _round_up(length: float) -> int:
    return math.ceil(length / _STEP) * _STEP


def _times(length: int, edge: int) -> str:
    factor = length / edge
    return f"{factor:.2g}" if factor < 10 else f"{factor:.0f}"
