"""Import CVAT's export "CVAT for images 1.1": annotations.xml and the folder images.

Polygons, boxes, ellipses and masks have an area; polylines, points, cuboids and skeletons are left
out. As in CVAT, a shape with a higher z_order is on top; with equal z_order, the later one.

The run lengths of a mask go along the rows of its rectangle, and start outside of the mask.
"""

import xml.sax
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.sax.handler import ContentHandler, LexicalHandler, property_lexical_handler

from sar.data.importers import shapes as regions
from sar.data.importers.names import plain_name, split_of, split_of_folders, split_of_word
from sar.data.importers.shapes import Shape, Style, draw_shapes
from sar.data.importers.source import Drawing, Item, Options, Source, SourceClass
from sar.data.importers.tree import Tree
from sar.errors import InputError, listed

NAME = "cvat"

_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")


def recognize(tree: Tree) -> str | None:
    """Return why the files may be CVAT's XML, or None."""
    for path in tree.with_suffix(".xml"):
        if _is_cvat(path):
            return f"{path} has CVAT's annotations"
    return None


def read(tree: Tree, options: Options) -> Source:
    """Read a source.

    Raises:
        InputError: a file is damaged or has tracks of a video; an image is in two files; or no
            image is there.
    """
    files = [path for path in tree.with_suffix(".xml") if _is_cvat(path)]
    content = [_parse(path) for path in files]
    labels: dict[str, tuple[int, int, int] | None] = {}
    for part in content:
        labels |= {name: color for name, color in part.labels.items() if name not in labels}
    for part in content:  # without <meta>, as some programs write it
        for image in part.images:
            for element in image.elements:
                labels.setdefault(element.get("label"), None)
    classes = [SourceClass(name, color=color) for name, color in labels.items()]
    index_of = {name: i for i, name in enumerate(labels)}
    image_tree = Tree(options.images) if options.images else tree
    items, missing, owner = [], [], {}
    for path, part in zip(files, content, strict=True):
        for image in part.images:
            place = f"{path}, line {image.line}"
            split = split_of_word(image.subset) or split_of(tree.relative(path))
            # An export of a project has a folder for each subset.
            name = f"{image.subset}/{image.name}" if image.subset else image.name
            found = image_tree.find_image(name, path, place, split=split)
            if found is None:
                missing.append(image.name)
                continue
            if found in owner:
                raise InputError(f"{place}: {found} is annotated in {owner[found]}, too.")
            owner[found] = place
            shapes = [element.as_shape(index_of) for element in image.in_order()]
            draw = partial(_draw, path, image.size, shapes, Style.of(options))
            relative = image_tree.relative(found)
            split = split or split_of_folders(relative)
            items.append(Item(found, plain_name(relative), split, draw))
    image_tree.require_images(missing, len(items) + len(missing))
    notes = []
    if missing:
        notes.append(f"{len(missing)} annotated images are not there: {listed(missing, 3)}.")
    items.sort(key=lambda item: item.image)
    return Source(classes, items, files, notes)


def _draw(
    path: Path,
    size: tuple[int, int],
    shapes: Sequence[Shape],
    style: Style,
    image_size: tuple[int, int],
) -> Drawing:
    return draw_shapes(size, image_size, shapes, path, style)


@dataclass
class _Element:
    kind: str
    line: int
    attributes: dict[str, str]
    z_order: int

    def get(self, name: str) -> str:
        return self.attributes[name]

    def as_shape(self, index_of: dict[str, int]) -> Shape:
        label = self.get("label")
        region = None if self.kind in _WITHOUT_AREA else partial(_region, self)
        return Shape(index_of[label], label, f"line {self.line}", region, self.kind)


@dataclass
class _Image:
    name: str
    subset: str
    size: tuple[int, int]
    line: int
    elements: list[_Element] = field(default_factory=list)

    def in_order(self) -> list[_Element]:
        """Return the elements in the order of drawing."""
        return sorted(self.elements, key=lambda found: found.z_order)


def _region(element: _Element, size: tuple[int, int], outline: bool) -> regions.Patch:
    """Return the pixels of an element. A wrong or missing attribute is a ValueError."""
    kind, attributes = element.kind, element.attributes
    try:
        if kind == "polygon":
            points = [list(map(float, pair.split(","))) for pair in attributes["points"].split(";")]
            return regions.polygon(points)(size, outline)
        degrees = float(attributes.get("rotation", 0))
        if kind == "box":
            corners = (float(attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
            return regions.box(*corners, degrees)(size, outline)
        if kind == "ellipse":
            values = (float(attributes[key]) for key in ("cx", "cy", "rx", "ry"))
            return regions.ellipse(*values, degrees)(size, outline)
        counts = [int(word) for word in attributes["rle"].split(",")]
        top, left = int(float(attributes["top"])), int(float(attributes["left"]))
        shape = int(float(attributes["height"])), int(float(attributes["width"]))
    except KeyError as error:
        raise ValueError(f"The attribute {error} is missing.") from error
    except OverflowError as error:
        raise ValueError(f"A number is too large ({error}).") from error
    if shape[0] > 2 * size[0] or shape[1] > 2 * size[1]:
        raise ValueError(f"The mask of {shape[1]} x {shape[0]} pixels is larger than the image.")
    return regions.Patch(top, left, regions.runs(counts, shape))


class _Reader(ContentHandler, LexicalHandler):
    """Read the images and labels of a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.labels: dict[str, tuple[int, int, int] | None] = {}
        self.images: list[_Image] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self._label = ""

    def startDTD(self, *_: str) -> None:  # noqa: N802
        # Entities of a document type could expand to any size. CVAT writes none.
        raise InputError(f"{self.path} has a document type, which CVAT never writes.")

    def startElement(self, name: str, attrs) -> None:  # noqa: N802  the name is SAX's
        line, attributes = self._locator.getLineNumber(), dict(attrs)
        self._open.append(name)
        self._text.clear()
        if name == "track":
            raise InputError(
                f"{self.path}, line {line}: the file has tracks of a video. Export the task as "
                '"CVAT for images 1.1".'
            )
        if name == "image" and len(self._open) == 2:
            try:
                size = int(attributes["height"]), int(attributes["width"])
                self.images.append(
                    _Image(attributes["name"], attributes.get("subset", ""), size, line)
                )
            except (KeyError, ValueError) as error:
                raise InputError(
                    f"{self.path}, line {line}: the image has no valid name, width and height "
                    f"({error}): export it again."
                ) from error
        elif len(self._open) == 3 and self._open[1] == "image" and name != "tag":
            if "label" not in attributes:
                raise InputError(f"{self.path}, line {line}: the {name} has no label.")
            if name not in ("polygon", "box", "ellipse", "mask", *_WITHOUT_AREA):
                raise InputError(
                    f"{self.path}, line {line}: <{name}> is not a shape of CVAT: export it again."
                )
            try:
                z_order = int(attributes.get("z_order", 0))
            except ValueError as error:
                raise InputError(f"{self.path}, line {line}: z_order: {error}.") from error
            self.images[-1].elements.append(_Element(name, line, attributes, z_order))

    def characters(self, content: str) -> None:
        self._text.append(content)

    def endElement(self, name: str) -> None:  # noqa: N802
        # meta/task/labels/label or meta/project/labels/label
        if self._open[-3:-1] == ["labels", "label"]:
            if name == "name":
                self._label = "".join(self._text).strip()
                self.labels[self._label] = None
            elif name == "color" and self._label in self.labels:
                self.labels[self._label] = _color("".join(self._text).strip())
        self._open.pop()
        self._text.clear()


def _parse(path: Path) -> _Reader:
    reader = _Reader(path)
    try:
        parser = xml.sax.make_parser()
        parser.setContentHandler(reader)
        parser.setProperty(property_lexical_handler, reader)
        with open(path, "rb") as file:
            parser.parse(file)
    except (xml.sax.SAXException, OSError) as error:
        raise InputError(f"{path} cannot be read as XML ({error}): export it again.") from error
    return reader


def _is_cvat(path: Path) -> bool:
    """Return if the root element is <annotations>; VOC's files have the root <annotation>."""
    with open(path, "rb") as file:
        return b"<annotations" in file.read(4096)


def _color(text: str) -> tuple[int, int, int] | None:
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError:
        return None
    return red, green, blue
