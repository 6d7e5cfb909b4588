"""Import labelme's JSON files, one for each image.

Each file has `shapes`, with `label`, `points` and `shape_type`, and names its image in `imagePath`.
An image that is not there is read from `imageData`. Polygons, rectangles, circles and masks have an
area; lines and points are left out. As in labelme's own converters, later shapes cover earlier
ones, `__ignore__` is ignored, and `_background_` is the background.

X-AnyLabeling's files have the same form. Its rectangles and rotated rectangles have four corners.
"""

import base64
import io
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from sar.data.importers import shapes as regions
from sar.data.importers.names import folded, plain_name, split_of_folders
from sar.data.importers.shapes import Shape, Style, draw_shapes
from sar.data.importers.source import Drawing, Item, Options, Source, SourceClass
from sar.data.importers.tree import SOURCE_SUFFIXES, Tree, read_json
from sar.errors import InputError, listed

NAME = "labelme"

_POLYGONS = ("polygon", "oriented_rectangle", "rotation")
_WITH_AREA = (*_POLYGONS, "rectangle", "circle", "mask")


def recognize(tree: Tree) -> str | None:
    """Return why the files may be labelme's, or None."""
    path = tree.find_json(_is_labelme)
    return path and f"{path} has shapes and an imagePath"


def read(tree: Tree, options: Options) -> Source:
    """Read a source.

    Raises:
        InputError: a file is damaged, or an image is missing in the folder and in the file.
    """
    image_tree = Tree(options.images) if options.images else tree
    # The files may be large, because they can contain images: keep only the shapes.
    records = []
    for path in tree.with_suffix(".json"):
        content = read_json(path)
        if _is_labelme(content):
            records.append(_Record(path, content, tree.relative(path)))
    complete = {path.parent for path in image_tree.with_suffix(*SOURCE_SUFFIXES)}
    complete &= {record.path.parent for record in records}
    missing = [record for record in records if not record.find(image_tree, complete)]
    owner: dict[Path, Path] = {}
    for record in records:
        if record.image and owner.setdefault(record.image, record.path) != record.path:
            raise InputError(
                f"{owner[record.image]} and {record.path} both annotate {record.image}: remove one."
            )
    without_data = [record.image_path for record in missing if not record.has_data]
    image_tree.require_images(without_data, len(records))
    records = [record for record in records if record.image or record.has_data]
    notes = []
    if without_data:
        notes.append(f"{len(without_data)} images are not there: {listed(without_data, 3)}.")
    names = sorted({shape["label"] for record in records for shape in record.shapes})
    classes = [SourceClass(name) for name in names]
    index_of = {name: index for index, name in enumerate(names)}
    style = Style.of(options)
    items = []
    for record in records:
        found = record.as_shapes(index_of)
        items.append(
            Item(
                image=record.image or record.path,
                name=record.name,
                split=record.split,
                draw=partial(_draw, record, found, style),
                embedded=None if record.image else record.embedded_image,
            )
        )
    return Source(classes, items, [record.path for record in records], notes)


def _draw(
    record: "_Record", shapes: Sequence[Shape], style: Style, size: tuple[int, int]
) -> Drawing:
    recorded = record.size or size
    return draw_shapes(recorded, size, shapes, record.path, style)


class _Record:
    """The content of a file, without the image."""

    def __init__(self, path: Path, content: dict, relative: PurePosixPath) -> None:
        self.path = path
        self.name = plain_name(relative)
        self.split = split_of_folders(relative)
        self.image: Path | None = None
        self.image_path = content["imagePath"]
        self.has_data = bool(content.get("imageData"))
        size = content.get("imageHeight"), content.get("imageWidth")
        self.size = size if all(isinstance(length, int) and length > 0 for length in size) else None
        self.shapes = content["shapes"]
        for number, shape in enumerate(self.shapes, start=1):
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
                raise InputError(f"{path}, shape {number}, has no label: correct it in labelme.")

    def find(self, tree: Tree, complete: set[Path]) -> bool:
        """Set the image file if it is there, and return if it is.

        If the folders of the JSON file name no split, the folders of the image say it.
        If `imagePath` names no folder, a file in another folder is not taken if both folders are
        complete, or if the image is embedded and the two files lie in folders of other names.

        Args:
            complete: the folders that hold both images and JSON files.
        """
        image = tree.find_image(self.image_path, self.path, str(self.path), split=self.split)
        if image is not None and not re.search(r"[/\\]", self.image_path):
            is_near = image.parent == self.path.parent
            is_of_another = complete >= {image.parent, self.path.parent}
            is_same = folded(plain_name(tree.relative(image))) == folded(self.name)
            if not is_near and (is_of_another or self.has_data and not is_same):
                image = None
        self.image = image
        if image is not None:
            self.split = self.split or split_of_folders(tree.relative(image))
        return image is not None

    def as_shapes(self, index_of: dict[str, int]) -> list[Shape]:
        result = []
        for number, shape in enumerate(self.shapes, start=1):
            kind = shape.get("shape_type") or "polygon"
            place = f"shape {number}"
            region = partial(_region, shape, kind) if kind in _WITH_AREA else None
            result.append(Shape(index_of[shape["label"]], shape["label"], place, region, kind))
        return result

    def embedded_image(self) -> bytes:
        """Return the content of the embedded image file.

        Raises:
            InputError: it is damaged.
        """
        data = read_json.__wrapped__(self.path)["imageData"]  # not kept in memory
        try:
            return _decoded(data)
        except ValueError as error:
            raise InputError(f"{self.path}, imageData: {error} Export it again.") from error


def _region(shape: dict, kind: str, size: tuple[int, int], outline: bool) -> regions.Patch:
    """Return the pixels of a shape. A wrong or missing entry is a ValueError."""
    points = shape.get("points")
    has_four_corners = kind == "rectangle" and isinstance(points, list) and len(points) == 4
    if kind in _POLYGONS or has_four_corners:
        return regions.polygon(points)(size, outline)
    try:
        (x0, y0), (x1, y1) = points
        x0, y0, x1, y1 = map(float, (x0, y0, x1, y1))
    except (TypeError, ValueError):
        raise ValueError("It needs two points.") from None
    if kind == "rectangle":
        return regions.box(x0, y0, x1, y1)(size, outline)
    if kind == "circle":  # centre, and a point of the outline
        radius = math.hypot(x1 - x0, y1 - y0)
        return regions.ellipse(x0, y0, radius, radius)(size, outline)
    return regions.Patch(int(min(y0, y1)), int(min(x0, x1)), _mask(shape.get("mask")))


def _mask(data: object) -> np.ndarray:
    content = _decoded(data)
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("L")) > 0
    except Exception as error:  # a damaged file can make a decoder raise nearly any error
        raise ValueError(f"The mask is damaged ({error}).") from error


def _decoded(data: object) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"It is not in base64 ({error}).") from error


def _is_labelme(content: object) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("shapes"), list)
        and isinstance(content.get("imagePath"), str)
    )
