"""Import YOLO's segmentation files: data.yaml, and a text file of polygons for each image.

    data.yaml                  names: the classes; train, val, test: folders or lists of images
    images/train/a.jpg         or train/images/a.jpg
    labels/train/a.txt         one polygon per line: class x y x y ..., in parts of width and height

`classes.txt` may take the place of data.yaml. Lines with four numbers are boxes without outline,
which are left out. As in Ultralytics' own masks, smaller polygons cover larger ones.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from sar.data.datasets.class_file import read_class_file
from sar.data.importers import shapes as regions
from sar.data.importers.names import innermost_role, plain_name, role_of, split_of_folders
from sar.data.importers.shapes import Shape, Style, draw_shapes
from sar.data.importers.source import Drawing, Item, Options, Source, SourceClass
from sar.data.importers.tree import SOURCE_SUFFIXES, Tree, add_unique, read_text
from sar.errors import InputError, listed

NAME = "yolo"


def recognize(tree: Tree) -> str | None:
    """Return why the files may be YOLO's, or None."""
    labels = _label_files(tree)
    if not labels:
        return None
    try:
        named = _yaml_files(tree) or tree.named("classes.txt")
    except InputError:  # a YAML file of another program, or a damaged one, which `read` reports
        named = tree.named("data.yaml", "classes.txt")
    return f"{named[0]} and {len(labels)} text files, such as {labels[0]}" if named else None


def read(tree: Tree, options: Options) -> Source:
    """Read a source.

    Raises:
        InputError: the file of the classes is missing or wrong, there are several, two text files
            have one name, or no image has a text file.
    """
    class_file, names, settings = _read_classes(tree)
    image_tree = Tree(options.images) if options.images else tree
    labels: dict[tuple[str | None, str], Path] = {}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in _label_files(tree):
        relative = tree.relative(path)
        add_unique(labels, (split_of_folders(relative), plain_name(relative)), path, "text files")
        by_name[plain_name(relative)].append(path)
    splits = _Splits(class_file.parent, settings)
    items, used, without = [], set(), []
    images, masks = _images(image_tree)
    for image in images:
        relative = image_tree.relative(image)
        split, name = split_of_folders(relative), plain_name(relative)
        label = labels.get((split, name)) or labels.get((None, name))
        if label is None and split is None and len(by_name[name]) == 1:
            label = by_name[name][0]
            split = split_of_folders(tree.relative(label))
        used.add(label)
        without += [image] if label is None else []
        draw = _Drawer(label, names, Style.of(options, small_on_top=True))
        items.append(Item(image, name, splits.of(relative) or split, draw))
    if any(item.split for item in items):  # a stray picture does not belong to the data set
        stray = {item.image for item in items if item.split is None} & set(without)
        items = [item for item in items if item.image not in stray]
    if not used - {None}:
        raise InputError(
            f"None of {len(items)} images in {image_tree.root} has one of the {len(labels)} text "
            f"files ({listed(list(labels.values()), 2)}): names must be equal. Give the folder of "
            "the images with --images."
        )
    notes = []
    if splits.shared:
        notes.append(
            f"{class_file} names {listed(splits.shared, 3)} for several splits, so it does not "
            "say which images are for validation."
        )
    elif splits.are_named and not any(item.split for item in items):
        notes.append(
            f"{class_file} names splits, but none of its folders or files of lists is below "
            f"{image_tree.root}: give the folder that holds them, if they are to count."
        )
    if orphans := sorted(set(labels.values()) - used):
        notes.append(f"{len(orphans)} text files without an image: {listed(orphans, 3)}.")
    if masks:
        notes.append(
            f"{len(masks)} pictures in folders of labels or masks were not taken as images: "
            f"{listed(masks, 3)}."
        )
    if without:
        notes.append(f"{len(without)} images without a text file: {listed(without, 3)}.")
    classes = [SourceClass(name, id) for id, name in names.items()]
    return Source(classes, items, [class_file, *labels.values()], notes)


class _Drawer:
    """Draw the polygons of a text file; None stands for an image without polygons.

    Args:
        names: the name of each class, by its id.
    """

    def __init__(self, path: Path | None, names: dict[int, str], style: Style) -> None:
        self._path, self._names, self._style = path, names, style

    def __call__(self, size: tuple[int, int]) -> Drawing:
        shapes = [] if self._path is None else self._read(size)
        return draw_shapes(size, size, shapes, self._path, self._style)

    def _read(self, size: tuple[int, int]) -> list[Shape]:
        lines = read_text(self._path).splitlines()
        index_of = {id: index for index, id in enumerate(self._names)}
        shapes = []
        for number, line in enumerate(lines, start=1):
            if not (words := line.split()):
                continue
            place = f"{self._path}, line {number}"
            try:
                class_id, *numbers = map(float, words)  # numpy writes whole classes as 1.0
            except ValueError:
                raise InputError(
                    f'{place}: expected numbers (class x y x y ...), found "{line[:60]}". Export '
                    "it again."
                ) from None
            if class_id not in index_of:
                raise InputError(
                    f"{place}: the class {words[0]} is not among the {len(index_of)} named classes "
                    f"({_first_and_last(index_of)}). Correct the line, or the names."
                )
            if len(numbers) % 2:
                raise InputError(
                    f"{place}: expected pairs of x and y, found {len(numbers)} numbers. Export a "
                    "segmentation without confidences."
                )
            region, kind = None, "box without outline"
            if len(numbers) != 4:
                points = np.array(numbers).reshape(-1, 2) * (size[1], size[0])
                region, kind = regions.polygon(points), "polygon"
            name = self._names[class_id]
            shapes.append(Shape(index_of[class_id], name, f"line {number}", region, kind))
        return shapes


class _Splits:
    """The split of each image by the entries of data.yaml.

    Args:
        folder: the folder of data.yaml.
        settings: the content of data.yaml.

    Attributes:
        are_named: data.yaml names a folder or a list of images.
        shared: folders that several splits name, so that they name none.
    """

    def __init__(self, folder: Path, settings: dict) -> None:
        self._folders: dict[PurePosixPath, str] = {}
        self.shared: list[str] = []
        # By each end of the path of an image; None if images of several splits share the end.
        self._files: dict[str, str | None] = {}
        self.are_named = False
        for split in ("train", "val", "test"):
            entries = settings.get(split) or []
            for entry in [entries] if isinstance(entries, str) else entries:
                if not isinstance(entry, str):
                    continue
                self.are_named = True
                if not entry.endswith(".txt"):
                    if (folder_of_images := _tail(entry)) != ".":
                        path = PurePosixPath(folder_of_images)
                        if self._folders.setdefault(path, split) != split:
                            self.shared.append(str(path))
                    continue
                for path in (folder / str(settings.get("path", "")) / entry, folder / entry):
                    if path.is_file():
                        self._add_list(path, split)
                        break

        for shared in self.shared:
            self._folders.pop(PurePosixPath(shared), None)

    def _add_list(self, path: Path, split: str) -> None:
        for line in filter(str.strip, read_text(path).splitlines()):
            for end in _ends(PurePosixPath(_tail(line))):
                if self._files.setdefault(end, split) != split:
                    self._files[end] = None

    def of(self, image: PurePosixPath) -> str | None:
        """Return the split of an image, given its path below the source."""
        for end in _ends(image):
            if split := self._files.get(end):
                return split
        for parent in image.parents[:-1]:  # the last one is the source itself
            # The source may begin above the entry, or, if the entry is absolute, below its start.
            found = {
                split
                for folder, split in self._folders.items()
                if _is_end(folder, parent) or _is_end(parent, folder)
            }
            if len(found) == 1:
                return found.pop()
        return None


def _is_end(end: PurePosixPath, path: PurePosixPath) -> bool:
    return path.parts[-len(end.parts) :] == end.parts


def _ends(path: PurePosixPath) -> list[str]:
    """Return a path without its first 0, 1, 2, ... folders."""
    return ["/".join(path.parts[place:]) for place in range(len(path.parts))]


def _tail(path: str) -> str:
    """Return a path of data.yaml without leading ./ and ../, which Roboflow writes."""
    parts = [part for part in PurePosixPath(path.strip().replace("\\", "/")).parts if part != ".."]
    return PurePosixPath(*parts).as_posix()


def _label_files(tree: Tree) -> list[Path]:
    """Return the text files in folders such as labels."""
    return [
        path
        for path in tree.with_suffix(".txt")
        if any(role_of(part) == "label" for part in tree.relative(path).parent.parts)
        and path.name.lower() != "classes.txt"
    ]


def _images(tree: Tree) -> tuple[list[Path], list[Path]]:
    """Return the images, and the pictures in folders such as masks, which are not images.

    If all pictures are in such folders, they are the images.
    """
    found = tree.with_suffix(*SOURCE_SUFFIXES)
    images = [path for path in found if innermost_role(tree.relative(path)) != "label"] or found
    return images, sorted(set(found) - set(images))


def _yaml_files(tree: Tree) -> list[Path]:
    return [path for path in tree.with_suffix(".yaml", ".yml") if "names" in _load(path)]


def _load(path: Path) -> dict:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path} cannot be read as YAML ({error}): export it again.") from error
    return content if isinstance(content, dict) else {}


def _read_classes(tree: Tree) -> tuple[Path, dict[int, str], dict]:
    """Return the file of the classes, the name of each class, and the content of data.yaml."""
    files = _yaml_files(tree) or tree.named("classes.txt")
    if len(files) != 1:
        raise InputError(
            f"Expected one data.yaml with names (or one classes.txt) below {tree.root}, found "
            f"{listed(files) or 'none'}: remove the others, or write one."
        )
    (path,) = files
    if path.suffix == ".txt":
        return path, {id: name for id, (name, _) in enumerate(read_class_file(path))}, {}
    settings = _load(path)
    names = settings["names"]
    if isinstance(names, Sequence) and not isinstance(names, str):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(id, int) for id in names):
        raise InputError(
            f"{path}: names must be a list of class names, or a name for each number: correct it."
        )
    return path, {id: str(names[id]) for id in sorted(names)}, settings


def _first_and_last(ids: dict[int, int]) -> str:
    return f"{min(ids)} to {max(ids)}"
