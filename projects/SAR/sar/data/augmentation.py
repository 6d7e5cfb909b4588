"""Augment a training image and its label map, with an explicit random generator.

Scale jitter, crop and flip are drawn first, as one `GeometricTransform`, and applied in one pass
that crops before it resizes, so that only the crop is resampled. The result equals detectron2's
ResizeShortestEdge, RandomCrop_CategoryAreaConstraint and RandomFlip in a row.

Shape shorthands:

    H, W: height and width of the file
    h, w: height and width of the result
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from sar.errors import InputError, nearest

CROP_TYPES = ("absolute", "absolute_range", "relative", "relative_range")
FLIPS = ("none", "horizontal", "vertical")
SAMPLINGS = ("choice", "range")
# Number of crops to draw until one respects the limit on a category's share.
_CROP_TRIES = 10


@dataclass(frozen=True)
class GeometricTransform:
    """Resize to `scaled_shape`, crop and flip in one step.

    Attributes:
        source_shape: (H, W) of the input.
        scaled_shape: height and width of the resized whole image.
        top, left: the corner of the crop, in pixels of the resized image.
        shape: (h, w) of the crop.
        flip: "none", "horizontal" or "vertical".
    """

    source_shape: tuple[int, int]
    scaled_shape: tuple[int, int]
    top: int
    left: int
    shape: tuple[int, int]
    flip: str = "none"

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Map (H, W, 3) uint8 to (h, w, 3), bilinear, with antialiasing if the image shrinks."""
        if self.scaled_shape != self.source_shape:
            return self.apply_pillow(Image.fromarray(image))
        h, w = self.shape
        return self._flipped(image[self.top : self.top + h, self.left : self.left + w])

    def apply_pillow(self, image: Image.Image, reduction: int = 1) -> np.ndarray:
        """Return the same as `apply_image`, for an image that Pillow has decoded.

        Args:
            image: the whole image, at 1 / `reduction` of its size.
        """
        h, w = self.shape
        if self.scaled_shape == self.source_shape:
            crop = image.crop((self.left, self.top, self.left + w, self.top + h))
        else:
            # Pillow also uses the pixels outside the box that the filter reaches. So the result
            # equals the crop of the resized whole image.
            source_h, source_w = self.source_shape
            scale_y, scale_x = source_h / self.scaled_shape[0], source_w / self.scaled_shape[1]
            box = (
                self.left * scale_x,
                self.top * scale_y,
                min((self.left + w) * scale_x, source_w),
                min((self.top + h) * scale_y, source_h),
            )
            box = tuple(edge / reduction for edge in box)
            crop = image.resize((w, h), Image.Resampling.BILINEAR, box=box)
        return self._flipped(np.asarray(crop))

    def _flipped(self, crop: np.ndarray) -> np.ndarray:
        if self.flip == "horizontal":
            return crop[:, ::-1]
        return crop[::-1] if self.flip == "vertical" else crop

    def apply_label(self, label: np.ndarray) -> np.ndarray:
        """Map (H, W) of any type to (h, w) by exact nearest neighbour."""
        h, w = self.shape
        rows = _nearest_indices(self.source_shape[0], self.scaled_shape[0])[self.top : self.top + h]
        columns = _nearest_indices(self.source_shape[1], self.scaled_shape[1])
        columns = columns[self.left : self.left + w]
        if self.flip == "horizontal":
            columns = columns[::-1]
        elif self.flip == "vertical":
            rows = rows[::-1]
        return label.take(rows, axis=0).take(columns, axis=1)


def resize_shortest_edge(
    shape: tuple[int, int], short_edge: int, max_size: int = sys.maxsize
) -> GeometricTransform:
    """Return a resize of the whole image to a shorter edge of `short_edge` pixels (0: no resize).

    The longer edge is at most `max_size`. Both edges are rounded as in detectron2.
    """
    scaled = shape
    if short_edge > 0:
        short, long = float(short_edge), short_edge / min(shape) * max(shape)
        if long > max_size:
            short, long = short * (max_size / long), long * (max_size / long)
        # A very long image can shrink to less than half a pixel.
        short, long = max(int(short + 0.5), 1), max(int(long + 0.5), 1)
        scaled = (short, long) if shape[0] < shape[1] else (long, short)
    return GeometricTransform(shape, scaled, top=0, left=0, shape=scaled)


class RandomCrop:
    """Size of a random crop, as detectron2 defines INPUT.CROP.TYPE and SIZE.

    Args:
        type: "absolute": `size` is (h, w) in pixels. "absolute_range": h and w are drawn from
            [size[0], size[1]] pixels. "relative": `size` is (h, w) as shares of the image.
            "relative_range": the shares are drawn from [size[0], 1] and [size[1], 1].
        size: two numbers.

    Raises:
        InputError: the type is unknown, or the sizes do not fit the type.
    """

    def __init__(self, type: str, size: Sequence[float]) -> None:
        _check_choice("INPUT.CROP.TYPE", type, CROP_TYPES)
        absolute = type.startswith("absolute")
        if len(size) != 2 or not all(
            (value >= 1 and int(value) == value) if absolute else 0 < value <= 1 for value in size
        ):
            expected = "whole numbers of pixels" if absolute else "shares of the image in (0, 1]"
            raise InputError(
                f"INPUT.CROP.SIZE {tuple(size)} does not fit INPUT.CROP.TYPE {type}, "
                f"which needs two {expected}: change one of the two keys."
            )
        if type == "absolute_range" and size[0] > size[1]:
            raise InputError(
                f"INPUT.CROP.SIZE {tuple(size)} is not a range for INPUT.CROP.TYPE {type}: "
                "give the smaller number first."
            )
        self.type = type
        self.size = tuple(int(value) for value in size) if absolute else tuple(size)

    def draw_shape(self, shape: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """Draw the (h, w) of a crop of an image of `shape`, never larger than the image."""
        if self.type == "absolute":
            return tuple(min(size, edge) for size, edge in zip(self.size, shape, strict=True))
        if self.type == "absolute_range":
            low, high = self.size
            return tuple(
                int(rng.integers(min(low, edge), min(high, edge), endpoint=True)) for edge in shape
            )
        shares = self.size if self.type == "relative" else rng.uniform(self.size, 1.0)
        return tuple(
            max(int(share * edge + 0.5), 1) for share, edge in zip(shares, shape, strict=True)
        )


class RandomScaleCropFlip:
    """Draw scale jitter, a crop with a limit on the share of one category, and a flip.

    A share of the crops can be class-uniform (Bulò et al., In-Place Activated BatchNorm, CVPR
    2018): such a crop contains a random pixel of a random class of its image, and the limit is only
    on the share of this class.

    Args:
        short_edges: lengths in pixels of the shorter edge after resizing; 0: not resized.
        sampling: "choice" draws one of `short_edges`; "range" a whole number between the two.
        max_size: greatest length in pixels of the longer edge after resizing.
        crop: the size of the crop; None for the whole image.
        max_category_share: up to 10 crops are drawn, until each category covers less than this
            share of the crop; 1: no limit. (This is DeepLab's SINGLE_CATEGORY_MAX_AREA.)
        class_uniform: the probability that a crop is class-uniform; other crops are uniform.
        flip: "horizontal", "vertical" (with a probability of one half) or "none".
        ignore_label: the id that is no class.

    Raises:
        InputError: a value is out of range; the message names its config key.
    """

    def __init__(
        self,
        short_edges: Sequence[int],
        *,
        sampling: str = "choice",
        max_size: int = sys.maxsize,
        crop: RandomCrop | None = None,
        max_category_share: float = 1.0,
        class_uniform: float = 0.0,
        flip: str = "horizontal",
        ignore_label: int = 255,
    ) -> None:
        _check_choice("INPUT.MIN_SIZE_TRAIN_SAMPLING", sampling, SAMPLINGS)
        _check_choice("INPUT.RANDOM_FLIP", flip, FLIPS)
        if not short_edges or min(short_edges) < 0:
            raise InputError(
                f"INPUT.MIN_SIZE_TRAIN {tuple(short_edges)} needs one or more lengths in pixels "
                "(0: not resized)."
            )
        if sampling == "range" and (len(short_edges) != 2 or short_edges[0] > short_edges[1]):
            raise InputError(
                f"INPUT.MIN_SIZE_TRAIN {tuple(short_edges)} is not a range: give the smallest and "
                'the greatest length, or set INPUT.MIN_SIZE_TRAIN_SAMPLING to "choice".'
            )
        if not 0 < max_category_share <= 1:
            raise InputError(
                f"INPUT.CROP.SINGLE_CATEGORY_MAX_AREA {max_category_share} is not a share: "
                "give a number in (0, 1], 1 for no limit."
            )
        if not 0 <= class_uniform <= 1:
            raise InputError(
                f"INPUT.CROP.CLASS_UNIFORM {class_uniform} is not a share: give a number in "
                "[0, 1], 0 for crops that do not depend on the classes."
            )
        self.short_edges = tuple(short_edges)
        self.sampling = sampling
        self.max_size = max_size
        self.crop = crop
        self.max_category_share = max_category_share
        self.class_uniform = class_uniform
        self.flip = flip
        self.ignore_label = ignore_label

    def __call__(self, label: np.ndarray, rng: np.random.Generator) -> GeometricTransform:
        """Draw a transform for an image with this label map, (H, W)."""
        if self.sampling == "range":
            short_edge = rng.integers(*self.short_edges, endpoint=True)
        else:
            short_edge = rng.choice(self.short_edges)
        whole = resize_shortest_edge(label.shape, int(short_edge), self.max_size)
        flip = self.flip if rng.random() < 0.5 else "none"
        is_class_uniform = self.crop and self.class_uniform and rng.random() < self.class_uniform
        for _ in range(_CROP_TRIES):
            shape = self.crop.draw_shape(whole.shape, rng) if self.crop else whole.shape
            category, pixel = None, (None, None)
            if is_class_uniform:
                category, pixel = self._draw_pixel(label, whole, rng)
            top, left = (
                _draw_start(edge, size, position, rng)
                for edge, size, position in zip(whole.shape, shape, pixel, strict=True)
            )
            transform = GeometricTransform(label.shape, whole.shape, top, left, shape, flip)
            if self.max_category_share == 1:
                break
            if self._is_mixed(transform.apply_label(label), category):
                break
        return transform

    def _draw_pixel(
        self, label: np.ndarray, whole: GeometricTransform, rng: np.random.Generator
    ) -> tuple[int | None, tuple[int | None, int | None]]:
        """Draw a class of the label and one of its pixels: (row, column) in the resized image."""
        counts = self._count(label)
        classes = np.flatnonzero(counts)
        if not len(classes):
            return None, (None, None)
        category = rng.choice(classes)
        pixel = np.flatnonzero(label == category)[rng.integers(counts[category])]
        return category, tuple(
            int((position + 0.5) * scaled / source)
            for position, scaled, source in zip(
                divmod(int(pixel), label.shape[1]), whole.scaled_shape, label.shape, strict=True
            )
        )

    def _is_mixed(self, label: np.ndarray, category: int | None) -> bool:
        """Return True if a category, or each if it is None, covers less than the limit."""
        counts = self._count(label)
        largest = counts.max() if category is None else np.count_nonzero(label == category)
        return largest < self.max_category_share * counts.sum()

    def _count(self, label: np.ndarray) -> np.ndarray:
        """Return the number of pixels of each id, 0 for the ignored one."""
        if label.dtype == np.uint8:  # several times faster than bincount
            counts = np.array(Image.fromarray(label).histogram())
        else:
            counts = np.bincount(label.ravel())
        if self.ignore_label < len(counts):
            counts[self.ignore_label] = 0
        return counts


class ColorJitter:
    """Change brightness, contrast and saturation in random order, by factors in [1 - j, 1 + j].

    Args:
        strength: j, in [0, 1].

    Raises:
        InputError: `strength` is out of range.
    """

    _ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

    def __init__(self, strength: float) -> None:
        if not 0 <= strength <= 1:
            raise InputError(
                f"INPUT.COLOR_JITTER {strength} is out of range: give a number in [0, 1] (0: none)."
            )
        self.strength = strength

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Map (h, w, 3) uint8 RGB to the same shape and type."""
        jittered = Image.fromarray(image)
        factors = rng.uniform(1 - self.strength, 1 + self.strength, size=len(self._ENHANCERS))
        for i in rng.permutation(len(self._ENHANCERS)):
            jittered = self._ENHANCERS[i](jittered).enhance(factors[i])
        return np.asarray(jittered)


def pad(array: np.ndarray, shape: tuple[int, int], value: Sequence[float] | float) -> np.ndarray:
    """Pad (h, w) or (h, w, channels) at the bottom and on the right up to `shape`.

    Args:
        value: the padding: a number, or one per channel (rounded to the array's type).
    """
    h, w = array.shape[:2]
    if (h, w) == tuple(shape):
        return array
    padded = np.empty((*shape, *array.shape[2:]), array.dtype)
    padded[:] = np.rint(value)
    padded[:h, :w] = array
    return padded


def _draw_start(edge: int, size: int, position: int | None, rng: np.random.Generator) -> int:
    """Draw where a crop of `size` pixels begins on an edge; if given, it contains a position."""
    first, last = 0, edge - size
    if position is not None:
        first, last = max(position - size + 1, first), min(position, last)
    return int(rng.integers(first, last, endpoint=True))


def _nearest_indices(size: int, scaled_size: int) -> np.ndarray:
    """Return the nearest source pixel of each pixel of an edge resized to `scaled_size`.

    This is floor((i + 0.5) * scale). On the border of two pixels, rounding decides. A running sum
    rounds in the same way as Pillow's NEAREST.
    """
    steps = np.full(scaled_size, size / scaled_size)
    steps[0] /= 2
    return np.cumsum(steps).astype(np.intp)


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(
            f'{key} "{value}" is unknown: use one of {", ".join(choices)}.{nearest(value, choices)}'
        )
