"""Import Label Studio's export "JSON": a list of tasks with their annotations.

Polygons, rectangles and ellipses are in percent of the image. A brush has run lengths in a format
of its own (see `decode_brush`), and a bitmask is a transparent PNG. Later regions cover earlier
ones. If a task has several annotations, the one marked as ground truth is taken, otherwise the last
one.
"""

import base64
import io
import re
from collections.abc import Sequence
from functools import partial
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

from sar.data.importers import shapes as regions
from sar.data.importers.names import plain_name, split_of, split_of_folders
from sar.data.importers.shapes import Shape, Style, draw_shapes
from sar.data.importers.source import IGNORED, Drawing, Item, Options, Source, SourceClass
from sar.data.importers.tree import SOURCE_SUFFIXES, Tree, read_json
from sar.errors import InputError, listed

NAME = "labelstudio"

_LABEL_KEYS = (
    "brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels", "ellipselabels",
    "vectorlabels", "labels",
)  # fmt: skip
_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio adds it to uploaded files


def recognize(tree: Tree) -> str | None:
    """Return why the files may be Label Studio's, or None."""
    path = tree.find_json(_is_label_studio)
    return path and f"{path} has tasks with annotations"


def read(tree: Tree, options: Options) -> Source:
    """Read a source.

    Raises:
        InputError: a file is damaged, an image is in two tasks, or no image is there.
    """
    image_tree = Tree(options.images) if options.images else tree
    files, found, missing, without, several = [], [], [], 0, 0
    for path in tree.with_suffix(".json"):
        content = read_json(path)
        if not _is_label_studio(content):
            continue
        files.append(path)
        for number, task in enumerate(content, start=1):
            place = f"{path}, task {number} (id {task.get('id')})"
            annotations = [a for a in task["annotations"] if not a.get("was_cancelled")]
            if not annotations:
                without += 1
                continue
            several += len(annotations) > 1
            name = _image_name(task, place)
            image = image_tree.find_image(name, path, place)
            if image is None:
                image = image_tree.find_image(_without_prefix(name), path, place)
            if image is None:
                missing.append(name)
                continue
            true = [a for a in annotations if a.get("ground_truth")]
            results = (true or annotations)[-1].get("result") or []
            if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
                raise InputError(f"{place}: the result is not a list of regions: export it again.")
            # Relations between regions have no value.
            entries = [_Region(entry, place) for entry in results if "value" in entry]
            found.append((path, place, image, entries))
    image_tree.require_images(missing, len(found) + len(missing))
    names = dict.fromkeys(r.label for *_, results in found for r in results if r.label is not None)
    index_of = {name: i for i, name in enumerate(sorted(names))}
    items, owner = [], {}
    for path, place, image, results in found:
        if image in owner:
            raise InputError(f"{place}: {image} is annotated in {owner[image]}, too: remove one.")
        owner[image] = place
        relative = image_tree.relative(image)
        shapes = [region.as_shape(index_of) for region in results if region.is_shape]
        sizes = {region.size for region in results if region.size}
        problem = next((region.problem for region in results if region.problem), None)
        draw = partial(_draw, place, problem, sizes, shapes, Style.of(options))
        # The name of an image may have any meaning, such as the first photo of a street.
        split = split_of(tree.relative(path)) or split_of_folders(relative)
        items.append(Item(image, plain_name(relative), split, draw))
    notes = []
    if missing:
        notes.append(f"{len(missing)} annotated images are not there: {listed(missing, 3)}.")
    if without:
        notes.append(f"{without} tasks have no annotation, or a cancelled one. They were left out.")
    if several:
        notes.append(
            f"{several} tasks have several annotations: the one marked as ground truth was taken, "
            "otherwise the last one."
        )
    items.sort(key=lambda item: item.image)
    return Source([SourceClass(name) for name in index_of], items, files, notes)


def decode_brush(rle: Sequence[int], num_values: int) -> np.ndarray:
    """Decode the run lengths of a brush.

    The bytes are a stream of bits: 32 bits with the number of values; 5 bits with the bits of a
    value - 1; four times 4 bits with a size - 1. Then follow blocks: 1 bit (1: a run of one value,
    0: single values), 2 bits that select a size, so many bits with the number of values - 1, and
    the value or values.

    Args:
        rle: the bytes, as numbers from 0 to 255.
        num_values: the expected number of values.

    Returns:
        (num_values,) unsigned integers.

    Raises:
        ValueError: the bytes end early, or hold another number of values.
    """
    data = bytes(rle)
    position = 0

    def take(bits: int) -> int:
        nonlocal position
        end = position + bits
        if end > 8 * len(data):
            raise ValueError("The run lengths of the brush end early.")
        part = int.from_bytes(data[position // 8 : -(-end // 8)], "big")
        position = end
        return part >> (-end % 8) & ((1 << bits) - 1)

    if (found := take(32)) != num_values:
        raise ValueError(f"The brush has {found} values, but its image needs {num_values}.")
    word = take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = np.zeros(num_values, np.min_scalar_type((1 << word) - 1))
    start = 0
    while start < num_values:
        is_run = take(1)
        end = start + 1 + take(sizes[take(2)])
        if end > num_values:
            raise ValueError("The run lengths of the brush are longer than its image.")
        values[start:end] = take(word) if is_run else [take(word) for _ in range(end - start)]
        start = end
    return values


class _Region:
    """An entry of a result.

    Attributes:
        label: the class; None for a region without a label.
        size: the (H, W) of the image, or None.
        is_shape: the entry describes a region, not a choice or a text of the whole image.
        problem: why the image cannot be labelled, or None.
    """

    label: str | None = None
    size: tuple[int, int] | None = None
    is_shape = False
    problem: InputError | None = None

    def __init__(self, entry: dict, place: str) -> None:
        self._value, self._type = entry["value"], entry.get("type")
        self._place = f"region {entry.get('id')}"
        try:
            self._read(entry, place)
        except InputError as error:
            self.problem = error

    def _read(self, entry: dict, place: str) -> None:
        if not isinstance(self._value, dict) or not isinstance(self._type, str):
            raise InputError(f"{place}, {self._place}: its value or type is damaged: export again.")
        labels = next((self._value[key] for key in _LABEL_KEYS if key in self._value), [])
        if not isinstance(labels, list):
            raise InputError(f"{place}, {self._place}: its labels are not a list: export again.")
        if len(labels) > 1:
            raise InputError(
                f"{place}, {self._place}: it has the labels {listed(labels)}; a pixel can have one "
                "class only. Remove the others."
            )
        if entry.get("image_rotation"):
            raise InputError(
                f"{place}: the image is rotated by {entry['image_rotation']} degrees in Label "
                "Studio. Rotate the image file, and annotate it again."
            )
        self.label = str(labels[0]) if labels else None
        size = entry.get("original_height"), entry.get("original_width")
        self.size = size if all(isinstance(side, int) and side > 0 for side in size) else None
        # A region without label comes with a second entry of the same id and type "labels".
        self.is_shape = self.label is not None or self._type.endswith("labels")

    def as_shape(self, index_of: dict[str, int]) -> Shape:
        kind = self._type.removesuffix("labels") or "region"
        keys = ("rle", "imageDataURL", "points", "width", "radiusX")
        has_area = any(key in self._value for key in keys)
        is_line = self._type.startswith("keypoint") or self._value.get("closed") is False
        region = partial(_region, self._value) if has_area and not is_line else None
        name = "(no label)" if self.label is None else self.label
        return Shape(index_of.get(self.label, IGNORED), name, self._place, region, kind)


def _draw(
    place: str,
    problem: InputError | None,
    sizes: set[tuple[int, int]],
    shapes: Sequence[Shape],
    style: Style,
    image_size: tuple[int, int],
) -> Drawing:
    if problem is not None:
        raise problem
    if len(sizes) > 1:
        raise InputError(f"{place}: the regions name images of different sizes: export it again.")
    size = next(iter(sizes), image_size)
    return draw_shapes(size, image_size, shapes, place, style)


def _region(value: dict, size: tuple[int, int], outline: bool) -> regions.Patch:
    """Return the pixels of a region. A wrong or missing entry is a ValueError."""
    height, width = size
    try:
        if "rle" in value:
            values = decode_brush(value["rle"], 4 * height * width)  # RGBA
            return regions.Patch(0, 0, values.reshape(height, width, 4)[:, :, 3] > 0)
        if "imageDataURL" in value:
            return regions.Patch(0, 0, _decode_bitmask(value["imageDataURL"], size))
        if "points" in value:
            points = np.asarray(value["points"], np.float64).reshape(-1, 2)
            return regions.polygon(points * (width / 100, height / 100))(size, outline)
        degrees = float(value.get("rotation", 0))
        x, y = value["x"] * width / 100, value["y"] * height / 100
        if "radiusX" in value:
            radius_x, radius_y = value["radiusX"] * width / 100, value["radiusY"] * height / 100
            return regions.ellipse(x, y, radius_x, radius_y, degrees)(size, outline)
        right, bottom = x + value["width"] * width / 100, y + value["height"] * height / 100
        return regions.box(x, y, right, bottom, degrees, pivot=(x, y))(size, outline)
    except (KeyError, TypeError) as error:
        raise ValueError(f"The region has no valid {error}.") from error


def _decode_bitmask(url: str, size: tuple[int, int]) -> np.ndarray:
    """Return the (H, W) bool of a PNG in a data URL, False for its transparent pixels.

    Raises:
        ValueError: it cannot be read, or has another size.
    """
    try:
        data = base64.b64decode(url.partition(",")[2], validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    except (OSError, ValueError, SyntaxError, AttributeError) as error:
        raise ValueError(f"The bitmask cannot be read as PNG ({error}).") from error
    if alpha.shape != size:
        raise ValueError(
            f"The bitmask is {alpha.shape[1]} x {alpha.shape[0]}, but its image is "
            f"{size[1]} x {size[0]}."
        )
    return alpha > 0


def _image_name(task: dict, place: str) -> str:
    """Return the path of a task's image; only the file name of an upload, which has a number."""
    data = task.get("data") if isinstance(task.get("data"), dict) else {}
    texts = [value for _, value in sorted(data.items()) if isinstance(value, str)]
    for text in [data.get("image"), *texts]:
        if not isinstance(text, str):
            continue
        url = urlsplit(text)
        path = (parse_qs(url.query).get("d") or [unquote(url.path)])[0]  # d: local files
        if path.lower().endswith(SOURCE_SUFFIXES):
            return path.rpartition("/")[2] if "/upload/" in path else path
    raise InputError(f"{place}: its data names no image file: export tasks with images.")


def _without_prefix(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + _PREFIX.sub("", file, count=1)


def _is_label_studio(content: object) -> bool:
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(task, dict) for task in content)
        and all(isinstance(task.get("annotations"), list) and "data" in task for task in content)
        and all(isinstance(found, dict) for task in content for found in task["annotations"])
    )
