"""Import COCO's JSON files: segmentations as polygons or run lengths, or panoptic PNGs.

Each JSON file is one part of the data set. Its folder or its name says the split, as in
annotations/instances_train2017.json and valid/_annotations.coco.json. Otherwise, the folders of the
images do. Annotations cover others in the order of the file: later ones are on top, as in COCO's
own conversion to label maps.

A pixel of a panoptic PNG has the segment id R + 256 G + 256^2 B. The id 0 has no class.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_util

from sar.data.importers import shapes as regions
from sar.data.importers.names import plain_name, split_of, split_of_folders
from sar.data.importers.shapes import Shape, Style, draw_shapes
from sar.data.importers.source import UNLABELLED, Drawing, Item, Options, Source, SourceClass
from sar.data.importers.tree import Tree, read_json
from sar.data.label_files import read_color_mask
from sar.errors import InputError, listed

NAME = "coco"


def recognize(tree: Tree) -> str | None:
    """Return why the files may be COCO's, or None."""
    path = tree.find_json(_is_coco)
    return path and f"{path} has images, annotations and categories"


def read(tree: Tree, options: Options) -> Source:
    """Read a source.

    Raises:
        InputError: a file is damaged, an image is in two files, or no image is there.
    """
    parts = [
        _Part(path, content, tree.relative(path))
        for path in tree.with_suffix(".json")
        if _is_coco(content := read_json(path))
    ]
    index_of: dict[str, int] = {}
    ids: dict[str, int] = {}
    for part in parts:
        for number, name in part.categories.items():
            index_of.setdefault(name, len(index_of))
            ids.setdefault(name, number)
    image_tree = Tree(options.images) if options.images else tree
    pngs = {path for part in parts for path in part.find_pngs(tree)}
    items, missing, owner = [], [], {}
    for part in parts:
        for image in part.images:
            name = image["file_name"]
            path = image_tree.find_image(
                name, part.path, str(part.path), split=part.split, exclude=pngs
            )
            if path is None:
                missing.append(name)
                continue
            if path in owner:
                raise InputError(
                    f"{path} is listed twice, in {owner[path]} and in {part.path}. If these are "
                    "two files, give one of them instead of the folder."
                )
            owner[path] = part.path
            draw = part.drawer(image, index_of, Style.of(options))
            relative = image_tree.relative(path)
            split = part.split or split_of_folders(relative)
            items.append(Item(path, plain_name(relative), split, draw))
    image_tree.require_images(missing, len(items) + len(missing))
    notes = []
    if missing:
        notes.append(f"{len(missing)} annotated images are not there: {listed(missing, 3)}.")
    items.sort(key=lambda item: item.image)
    classes = [SourceClass(name, ids[name]) for name in index_of]
    return Source(classes, items, [part.path for part in parts], notes)


class _Part:
    """The content of a JSON file.

    Attributes:
        categories: the name of each category, by its id, in the order of the ids.
        images: the entries of images.
    """

    def __init__(self, path: Path, content: dict, relative) -> None:
        self.path = path
        self.split = split_of(relative)
        self._annotations: dict[object, list[tuple[int, dict]]] = defaultdict(list)
        self._pngs: dict[object, Path | None] = {}
        used = set()
        try:
            self.is_panoptic = any("segments_info" in found for found in content["annotations"][:1])
            for number, entry in enumerate(content["annotations"], start=1):
                self._annotations[entry["image_id"]].append((number, entry))
                used.update(
                    info["category_id"]
                    for info in (entry["segments_info"] if self.is_panoptic else [entry])
                )
            self.images = [
                {key: image.get(key) for key in ("id", "file_name", "width", "height")}
                for image in content["images"]
            ]
            known = {entry["id"]: entry for entry in content["categories"]}
            # Roboflow writes a category without annotations that only names the group.
            groups = {entry.get("supercategory") for entry in content["categories"]}
            self.categories = {
                number: str(known[number]["name"])
                for number in sorted(known)
                if number in used
                or known[number]["name"] not in groups
                or known[number]["name"] == known[number].get("supercategory")
            }
            for image in self.images:
                self._check(image)
            orphans = self._annotations.keys() - {image["id"] for image in self.images}
        except KeyError as error:
            raise InputError(f"{path}: an entry has no {error}: export it again.") from error
        except (TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: an entry has another form than in COCO ({error}): export it again."
            ) from error
        if orphans:
            number = self._annotations[min(orphans, key=str)][0][0]
            raise InputError(
                f"{path}, annotation {number}: no image has the id {min(orphans, key=str)}: "
                "export it again."
            )

    def find_pngs(self, tree: Tree) -> list[Path]:
        """Find the panoptic PNGs of all images, and return them.

        Raises:
            InputError: a PNG is not there.
        """
        if not self.is_panoptic:
            return []
        for image_id, [(number, entry), *_] in self._annotations.items():
            # COCO's folder of the PNGs has the name of the JSON file.
            name = f"{self.path.stem}/{entry.get('file_name')}"
            place = f"{self.path}, annotation {number}"
            found = tree.find_image(name, self.path, place, role="label")
            if found is None:
                raise InputError(
                    f"{place}: the PNG {entry.get('file_name')} is not below {tree.root}: unpack "
                    f"it to {self.path.parent / self.path.stem}."
                )
            self._pngs[image_id] = found
        return list(self._pngs.values())

    def drawer(self, image: dict, index_of: dict[str, int], style: Style):
        """Return the function that draws the label of an image."""
        entries = self._annotations.get(image["id"], [])
        size = image["height"], image["width"]
        if self.is_panoptic:
            return partial(self._draw_png, image, index_of)
        shapes = [self._shape(number, entry, size, index_of) for number, entry in entries]
        return lambda image_size: draw_shapes(size, image_size, shapes, self.path, style)

    def _shape(self, number: int, entry: dict, size, index_of: dict[str, int]) -> Shape:
        place = f"annotation {number} (id {entry.get('id')})"
        name = self._category(entry["category_id"], place)
        segmentation = entry.get("segmentation")
        if isinstance(segmentation, list):
            segmentation = [ring for ring in segmentation if ring != []]
        region, kind = None, "annotation without segmentation"
        if isinstance(segmentation, dict):
            region, kind = regions.bitmap(0, 0, partial(_decode, segmentation, size)), "mask"
        elif segmentation:
            if not isinstance(segmentation, list):
                raise InputError(f"{self.path}, {place}: the segmentation is not a list or a mask.")
            kind = "polygon"
            region = regions.polygons([_pairs(ring) for ring in segmentation])
        return Shape(index_of[name], name, place, region, kind)

    def _draw_png(self, image: dict, index_of: dict[str, int], size) -> Drawing:
        entries = self._annotations.get(image["id"], [])
        if not entries:
            return Drawing(np.full(size, UNLABELLED, np.int32))
        number, entry = entries[0]
        path = self._pngs[image["id"]]
        rgb = read_color_mask(path)[:, :, :3].astype(np.int64)
        segments, inverse = np.unique(rgb @ [1, 256, 65536], return_inverse=True)
        classes = {0: UNLABELLED}
        for info in entry["segments_info"]:
            place = f"annotation {number}, segment {info.get('id')}"
            classes[info.get("id")] = index_of[self._category(info["category_id"], place)]
        unknown = [i for i in segments.tolist() if i not in classes]
        if unknown:
            raise InputError(
                f"{path} has the segments {listed(unknown)}, which annotation {number} of "
                f"{self.path} does not list: export it again."
            )
        table = np.array([classes[i] for i in segments.tolist()], np.int32)
        return Drawing(table[inverse.reshape(rgb.shape[:2])])

    def _category(self, number: object, place: str) -> str:
        if number not in self.categories:
            raise InputError(
                f"{self.path}, {place}: the category {number} is not in the file's categories "
                f"({listed(list(self.categories), 10)}): export it again."
            )
        return self.categories[number]

    def _check(self, image: dict) -> None:
        sides = image["height"], image["width"]
        if not isinstance(image["file_name"], str) or not image["file_name"]:
            raise InputError(f"{self.path}: the image {image['id']} has no file_name.")
        if not all(isinstance(side, int) and side > 0 for side in sides):
            raise InputError(
                f"{self.path}: the image {image['file_name']} has no valid height and width."
            )


def _decode(segmentation: dict, size: tuple[int, int]) -> np.ndarray:
    """Return the mask of run lengths, compressed (a string) or not (a list)."""
    if segmentation.get("size") != list(size):
        raise ValueError(
            f"The mask has the size {segmentation.get('size')}, but the image has {list(size)}."
        )
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        return regions.runs(counts, size, order="F")
    try:
        packed = {"size": list(size), "counts": counts.encode("ascii")}
        if mask_util.area(packed) > size[0] * size[1]:
            raise ValueError("more pixels than the image")
        return mask_util.decode(packed).astype(bool)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"The run lengths cannot be decoded ({error}).") from error


def _pairs(ring: object) -> object:
    """Return a flat list x, y, x, y, ... as points."""
    if isinstance(ring, Sequence) and len(ring) % 2 == 0:
        return list(zip(ring[::2], ring[1::2], strict=True))
    return ring  # which `polygon` refuses


def _is_coco(content: object) -> bool:
    if not isinstance(content, dict):
        return False
    lists = [content.get(key) for key in ("images", "annotations", "categories")]
    return all(isinstance(found, list) for found in lists) and bool(content["categories"])
