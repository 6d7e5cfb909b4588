"""Write a data set folder from drawn labels, without changing the source.

`import.json` is written first, with a checksum of everything that the result depends on. A stopped
import can continue, because it finds the same checksum and writes only the missing files.
`classes.txt` is written last, so that a part of a data set is not taken for a whole one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sar.data.datasets.folder import IMAGE_SUFFIXES, is_system_folder
from sar.data.image_files import decoded
from sar.data.importers.class_map import ClassMap
from sar.data.importers.examine import NUM_THREADS, draw_upright, image_file
from sar.data.importers.names import folded
from sar.data.importers.source import Item
from sar.data.importers.tree import CONVERTED_SUFFIXES
from sar.data.pillow_files import opened
from sar.data.preparation import convert_missing, write_label
from sar.errors import InputError
from sar.files.atomic import atomic_path, remove_leftovers, write_atomically
from sar.files.cache import states_of
from sar.files.program_outputs import Outputs

RECORD = "import.json"
_CLASSES = "classes.txt"
_SUFFIX_OF_FORMAT = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "TIFF": ".tif", "BMP": ".bmp"}


@dataclass(frozen=True)
class Planned:
    """An item with its place in the new data set.

    Attributes:
        split: "train", "val" or "test".
        name: path of image and label below the folders of the split, without suffix.
    """

    item: Item
    split: str
    name: str


def place_items(items: Sequence[Item], splits: Sequence[str]) -> tuple[list[Planned], list[str]]:
    """Give each item a name of its own in its split.

    Returns:
        The items with their places, and sentences about names that had to change.
    """
    taken: set[tuple[str, str]] = {(s, folded(i.name)) for i, s in zip(items, splits, strict=True)}
    used: set[tuple[str, str]] = set()
    planned, renamed = [], []
    for item, split in zip(items, splits, strict=True):
        name, number = item.name, 1
        key = split, folded(name)
        while key in used or (number > 1 and key in taken):
            number += 1
            name = f"{item.name}_{number}"
            key = split, folded(name)
        used.add(key)
        planned.append(Planned(item, split, name))
        if number > 1:
            renamed.append(f"{item.image} became {split}/{name}")
    notes = []
    if renamed:
        notes.append(
            f"{len(renamed)} images have a name that another image of their split has. They got a "
            f"number, for example: {renamed[0]}."
        )
    return planned, notes


def check_output(output: Path, sources: Sequence[Path]) -> None:
    """Check that a folder may become the data set.

    Args:
        sources: folders that are read.

    Raises:
        InputError: the folder is in a source or in another data set, or has a source inside; it has
            files that no import wrote; or it cannot be written.
    """
    resolved = Path(os.path.realpath(output))
    for source in sources:
        found = Path(os.path.realpath(source))
        if resolved.is_relative_to(found) or found.is_relative_to(resolved):
            raise InputError(
                f"--output {output} and the source {source} are inside each other, and the source "
                "must not change: choose another --output."
            )
    if output.is_dir():
        foreign = [name for name in os.listdir(output) if not is_system_folder(name)]
        if foreign and RECORD not in foreign:
            raise InputError(
                f"--output {output} has files of another origin, such as {sorted(foreign)[0]}: "
                "choose another --output."
            )
        if (output / _CLASSES).is_file():
            return  # a finished import, which `write` compares
    # Files that never exist: only the folders are checked.
    Outputs(output).check(output / part / "train" / RECORD for part in ("images", "labels"))


def checksum(
    planned: Sequence[Planned], classes: ClassMap, annotations: Sequence[Path], options: object
) -> str:
    """Return a checksum of everything that the files of the data set depend on."""
    images = [os.path.abspath(found.item.image) for found in planned]
    places = [(image, p.split, p.name) for image, p in zip(images, planned, strict=True)]
    files = [*map(os.path.abspath, annotations), *images]
    parts = [places, classes.text(), classes.ids.tolist(), states_of(files), options]
    return hashlib.sha256(json.dumps(parts).encode(errors="surrogateescape")).hexdigest()


def write(
    planned: Sequence[Planned],
    classes: ClassMap,
    output: Path,
    record: dict,
    *,
    link: bool,
    quiet: bool,
) -> None:
    """Write all files of the data set that are missing.

    Args:
        record: the content of import.json, with the "checksum".
        link: write symbolic links to the images instead of copies.

    Raises:
        InputError: the folder has another import, or a file cannot be written.
    """
    _check_record(output, record)
    write_atomically(output / RECORD, json.dumps(record, indent=1) + "\n")
    targets: dict[Path, Callable[[Path], None]] = {}
    for found in planned:
        label = output / "labels" / found.split / f"{found.name}.png"
        targets[label] = partial(_write_label, found.item, classes)
        image = output / "images" / found.split / f"{found.name}{_suffix(found.item)}"
        targets[image] = partial(_write_image, found.item, link)
    for folder in {path.parent for path in targets}:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    convert_missing(
        lambda write_to, target: write_to(target),
        targets,
        desc="Writing",
        threads=NUM_THREADS,
        quiet=quiet,
    )
    if not (output / _CLASSES).exists():
        write_atomically(output / _CLASSES, classes.text())


def _check_record(output: Path, record: dict) -> None:
    path = output / RECORD
    try:
        known = json.loads(path.read_text(encoding="utf-8"))["checksum"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): choose another --output.") from error
    if known != record["checksum"]:
        raise InputError(
            f"{path} is from an import with other options, or of a source that has changed since: "
            f"choose another --output, or remove {output} first."
        )


def _write_label(item: Item, classes: ClassMap, target: Path) -> None:
    drawing, _ = draw_upright(item)
    write_label(classes.new_ids(drawing.classes), target)


def _write_image(item: Item, link: bool, target: Path) -> None:
    is_same_format = item.embedded is None and target.suffix == item.image.suffix.lower()
    if link and is_same_format:
        target.symlink_to(os.path.realpath(item.image))
        return
    with image_file(item) as path, atomic_path(target, sync=False) as temporary:
        if is_same_format or _format_suffix(path) == target.suffix:
            shutil.copyfile(path, temporary)
        else:
            with opened(path, "image") as image:
                decoded(image, path).save(temporary)


def _suffix(item: Item) -> str:
    """Return the suffix of the image in the data set; .png if it must be converted."""
    suffix = item.image.suffix.lower()
    if item.embedded is not None or suffix in CONVERTED_SUFFIXES:
        with image_file(item) as path:
            return _format_suffix(path)
    assert suffix in IMAGE_SUFFIXES
    return suffix


def _format_suffix(path: Path) -> str:
    with opened(path, "image") as image:
        return _SUFFIX_OF_FORMAT.get(image.format, ".png")
