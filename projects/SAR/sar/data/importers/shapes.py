"""Draw polygons, boxes, ellipses and masks as a label.

A pixel belongs to a shape if its centre is inside: pixel (0, 0) covers the square from (0, 0) to
(1, 1), as in COCO and CVAT. pycocotools fills polygons by this rule. OpenCV's fillPoly also fills
all pixels on the outline, which makes random polygons with a radius of 8 pixels 14% larger. Yet
this is right for polygons that OpenCV's findContours traced along the pixels of a mask.

Shape shorthands: H, W: height and width of the image in pixels; N: number of points; h, w: size of
a patch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from pycocotools import mask as mask_util

from sar.data.importers.source import UNLABELLED, Drawing, Options
from sar.errors import InputError

_NUM_ELLIPSE_POINTS = 128
_MIN_POINTS_OF_TRACE = 7


@dataclass(frozen=True, eq=False)
class Patch:
    """A rectangular part of an image, and which of its pixels belong to a shape.

    Attributes:
        top, left: the position of the upper left pixel. It may lie outside the image.
        mask: (h, w) bool.
        is_traced: a polygon was traced along pixels; None for other shapes and few points.
    """

    top: int
    left: int
    mask: np.ndarray
    is_traced: bool | None = None


@dataclass(frozen=True)
class Style:
    """How shapes are drawn.

    Attributes:
        small_on_top: smaller shapes cover larger ones; otherwise later shapes cover earlier ones.
        outline: polygons also cover all pixels that their outline touches.
    """

    small_on_top: bool
    outline: bool

    @classmethod
    def of(cls, options: Options, *, small_on_top: bool = False) -> "Style":
        """Return the style that the options ask for.

        Args:
            small_on_top: the rule of the format, if the options ask for none.
        """
        if options.on_top is not None:
            small_on_top = options.on_top == "smaller"
        return cls(small_on_top, options.fill == "outline")


# Returns the pixels of a shape, given (H, W) and whether polygons cover their outline.
Region = Callable[[tuple[int, int], bool], Patch]


@dataclass(frozen=True, eq=False)
class Shape:
    """An annotated shape.

    Attributes:
        class_index: the index of its class in `Source.classes`, or IGNORED.
        class_name: the name of the class in the source.
        place: where the shape is in its file, for errors: "shape 3".
        region: the pixels; None for a shape without area.
        kind: what the source calls the shape: "polyline".
    """

    class_index: int
    class_name: str
    place: str
    region: Region | None
    kind: str


def draw_shapes(
    size: tuple[int, int],
    image_size: tuple[int, int],
    shapes: Sequence[Shape],
    file: object,
    style: Style,
) -> Drawing:
    """Return the label of an image, drawn from its shapes.

    Args:
        size: H, W, as the annotation says.
        image_size: H, W of the upright image. Sides may be swapped, if the annotation tool did not
            apply the EXIF orientation.
        shapes: later shapes cover earlier ones, unless the style says otherwise.
        file: the annotation file, for errors.
        style: how to draw.

    Raises:
        InputError: a shape is damaged; the message names the file and the shape. Or the sizes
            differ.
    """
    if sorted(size) != sorted(image_size):
        raise InputError(
            f"{file}: the annotation is for {size[1]} x {size[0]} pixels, but the image has "
            f"{image_size[1]} x {image_size[0]}. Give the original images with --images."
        )
    drawing = Drawing(np.full(size, UNLABELLED, np.int32))
    patches = []
    for shape in shapes:
        if shape.region is None:
            drawing.left_out[f"{shape.kind}, which has no area", shape.class_name] += 1
            continue
        try:
            patch = _clipped(shape.region(size, style.outline), size)
        except ValueError as error:  # an InputError, too
            raise InputError(
                f'{file}, {shape.place} ({shape.kind} of "{shape.class_name}"): {error} Correct '
                "or delete the shape in the annotation tool, and export again."
            ) from error
        if patch.is_traced is not None:
            drawing.traced[patch.is_traced] += 1
        if patch.mask.any() and style.small_on_top:
            patches.append((shape, _cropped(patch)))
        elif patch.mask.any():
            _paint(drawing, shape.class_index, patch)
        else:
            drawing.left_out[f"{shape.kind} that covers no pixel centre", shape.class_name] += 1
    patches.sort(key=lambda item: -np.count_nonzero(item[1].mask))
    for shape, patch in patches:
        _paint(drawing, shape.class_index, patch)
    return drawing


def polygon(points: object) -> Region:
    """Return the region of a polygon.

    Args:
        points: N points (x, y) in pixels. Fewer than 3 have no area, only an outline.
    """

    def region(size: tuple[int, int], outline: bool) -> Patch:
        array = _as_points(points, size)
        return (
            _with_outline(array)
            if outline
            else replace(_filled(array), is_traced=_is_traced(array))
        )

    return region


def polygons(rings: Sequence[object]) -> Region:
    """Return the region that at least one of several polygons covers."""

    def region(size: tuple[int, int], outline: bool) -> Patch:
        whole, traced = np.zeros(size, bool), []
        for ring in rings:
            patch = _clipped(polygon(ring)(size, outline), size)
            _view(whole, patch)[patch.mask] = True
            traced.append(patch.is_traced)
        return Patch(0, 0, whole, None if None in traced else all(traced))

    return polygon(rings[0]) if len(rings) == 1 else region


def box(
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    degrees: float = 0,
    pivot: tuple[float, float] | None = None,
) -> Region:
    """Return the region of a rectangle, turned clockwise around `pivot` (default: its centre)."""
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)
    points = _turned(corners, degrees, pivot or ((x0 + x1) / 2, (y0 + y1) / 2))
    return lambda size, _: _filled(_as_points(points, size))


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> Region:
    """Return the region of an ellipse, turned clockwise around its centre (x, y)."""
    angles = np.arange(_NUM_ELLIPSE_POINTS) * (2 * math.pi / _NUM_ELLIPSE_POINTS)
    points = np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
    points = _turned(points, degrees, (x, y))
    return lambda size, _: _filled(_as_points(points, size))


def bitmap(top: int, left: int, decode: Callable[[], np.ndarray]) -> Region:
    """Return the region of a mask, (h, w) bool, that `decode` returns when it is drawn."""
    return lambda size, _: Patch(top, left, decode())


def runs(counts: Sequence[int], shape: tuple[int, int], order: str = "C") -> np.ndarray:
    """Decode lengths of runs of equal pixels. The first run is outside of the mask.

    Args:
        counts: the lengths, in pixels.
        shape: h, w.
        order: "C" for runs along rows, "F" along columns.

    Returns:
        (h, w) bool.

    Raises:
        ValueError: the lengths are not whole numbers, or their sum is not h * w.
    """
    lengths = np.asarray(counts)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any():
        raise ValueError("The run lengths are not whole numbers of at least 0.")
    if lengths.sum() != shape[0] * shape[1] or lengths.max() > lengths.sum():
        raise ValueError(
            f"The run lengths cover {lengths.sum()} pixels, but the mask has {shape[1]} x "
            f"{shape[0]}."
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(shape, order=order)


def _as_points(points: object, size: tuple[int, int]) -> np.ndarray:
    try:
        array = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ValueError("Its points are not a list of x and y.")
    # Also not-a-number. Points far outside belong to another image, or have another unit.
    limit = np.array([size[1], size[0]])
    if not ((array >= -limit) & (array <= 2 * limit)).all():
        far = array[~((array >= -limit) & (array <= 2 * limit)).all(axis=1)][0]
        raise ValueError(
            f"The point ({far[0]:g}, {far[1]:g}) lies far outside the image of {size[1]} x "
            f"{size[0]} pixels."
        )
    return array


def _filled(points: np.ndarray) -> Patch:
    if len(points) < 3:
        return Patch(0, 0, np.zeros((0, 0), bool))
    # A whole-pixel offset does not change which pixels are inside, and the patch stays small.
    left, top = np.floor(points.min(axis=0)).astype(int).tolist()
    width, height = (np.ceil(points.max(axis=0)).astype(int) - (left, top) + 1).tolist()
    flat = (points - (left, top)).reshape(1, -1).tolist()
    mask = mask_util.decode(mask_util.frPyObjects(flat, height, width))[:, :, 0]
    return Patch(top, left, mask.astype(bool))


def _is_traced(points: np.ndarray) -> bool | None:
    """Return if all edges go along rows, columns or diagonals of pixels; None for few points."""
    if len(points) < _MIN_POINTS_OF_TRACE:
        return None
    dx, dy = np.abs(np.roll(points, -1, axis=0) - points).round(6).T
    is_whole = not (np.concatenate([dx, dy]) % 1).any()
    return bool(is_whole and ((dx == 0) | (dy == 0) | (dx == dy)).all())


def _with_outline(points: np.ndarray) -> Patch:
    pixels = np.floor(points).astype(np.int32)
    left, top = pixels.min(axis=0).tolist()
    width, height = (pixels.max(axis=0) - (left, top) + 1).tolist()
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [pixels - np.array([left, top], np.int32)], 1)
    return Patch(top, left, mask.astype(bool))


def _turned(points: np.ndarray, degrees: float, pivot: tuple[float, float]) -> np.ndarray:
    if not degrees:
        return points
    angle = math.radians(degrees)
    x, y = (points - pivot).T
    cos, sin = math.cos(angle), math.sin(angle)
    # y points down, so this turns clockwise.
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1) + pivot


def _clipped(patch: Patch, size: tuple[int, int]) -> Patch:
    top, left = max(patch.top, 0), max(patch.left, 0)
    bottom = min(patch.top + patch.mask.shape[0], size[0])
    right = min(patch.left + patch.mask.shape[1], size[1])
    if bottom <= top or right <= left:
        return Patch(0, 0, np.zeros((0, 0), bool), patch.is_traced)
    rows = slice(top - patch.top, bottom - patch.top)
    columns = slice(left - patch.left, right - patch.left)
    return Patch(top, left, patch.mask[rows, columns], patch.is_traced)


def _cropped(patch: Patch) -> Patch:
    """Return a copy without the empty rows and columns around the shape, to save memory."""
    rows, columns = (np.flatnonzero(patch.mask.any(axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    mask = patch.mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()
    return Patch(patch.top + top, patch.left + left, mask, patch.is_traced)


def _view(array: np.ndarray, patch: Patch) -> np.ndarray:
    """Return the part of an (H, W) array below a patch inside it."""
    height, width = patch.mask.shape
    return array[patch.top : patch.top + height, patch.left : patch.left + width]


def _paint(drawing: Drawing, class_index: int, patch: Patch) -> None:
    below = _view(drawing.classes, patch)
    found = below[patch.mask]
    covered = found[(found >= 0) & (found != class_index)]
    for index, pixels in enumerate(np.bincount(covered)):
        if pixels:
            drawing.covered[index, class_index] += int(pixels)
    below[patch.mask] = class_index
    drawing.shapes[class_index] += 1
