"""A data set that is a folder: no Python needed.

    FOLDER/
      classes.txt           a class name a line; the first is id 0
      images/train/         png, jpg, jpeg, tif, tiff or bmp; sub-folders are kept
      images/val/
      images/test/          if you keep one for the end
      labels/train/         for each image, a PNG of its name: 8 or 16 bits, one channel of ids
      labels/val/
      labels/test/

A line of classes.txt is `name`, `name r g b` (0 to 255) or `name #rrggbb`; a name may have blanks.
Blank lines and lines that start with # do not count. Pixels labelled 255 are ignored; with more
than 255 classes, which need 16-bit labels, those labelled 65535.
"""

import logging
import os
import re
import zlib
from functools import partial
from pathlib import Path

from sar.data import datasets
from sar.errors import InputError, listed

from detectron2.data import DatasetCatalog, MetadataCatalog

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LABEL_SUFFIXES = (".png",)
SPLITS = ("train", "val")
HELD_OUT = "test"
_TREE = (
    "The folder needs classes.txt (a class name a line), images/train, images/val, labels/train "
    "and labels/val, and may have images/test and labels/test; datasets/README.md shows it."
)

logger = logging.getLogger(__name__)


def register_folder(path: str | os.PathLike) -> tuple[str, ...]:
    """Registers a folder's splits, again if they are registered already.

    Images and labels are listed when a split is loaded, and not opened even then.

    Returns:
        the names of the training and the validation split, and of the test split where the folder
        has one: `folder_<folder>_{train,val,test}`.

    Raises:
        InputError: the folder, one of its parts or classes.txt is missing, or classes.txt is wrong.
            Loading a split raises it for an empty folder and for images without label.
    """
    folder = Path(os.path.realpath(os.path.expanduser(path)))
    if not os.path.isdir(folder):
        raise InputError(
            f"There is no folder {folder} (DATASETS.FOLDER): correct the path. {_TREE}"
        )
    class_names, colors = read_classes(folder / "classes.txt")
    has_held_out = any(os.path.exists(folder / part / HELD_OUT) for part in ("images", "labels"))
    splits = (*SPLITS, HELD_OUT) if has_held_out else SPLITS
    for part in ("images", "labels"):
        for split in splits:
            if not os.path.isdir(folder / part / split):
                raise InputError(f"There is no folder {folder / part / split}: add it. {_TREE}")

    prefix = f"folder_{folder.name}"
    known = f"{prefix}_{SPLITS[0]}"
    if known in DatasetCatalog:
        if MetadataCatalog.get(known).image_root != str(folder / "images" / SPLITS[0]):
            # Another folder of the same name; the checksum does not depend on the order.
            prefix += f"_{zlib.crc32(str(folder).encode()):08x}"
    names = tuple(f"{prefix}_{split}" for split in splits)
    for name, split in zip(names, splits, strict=True):
        image_root, label_root = folder / "images" / split, folder / "labels" / split
        datasets.register(
            name,
            partial(pair_images_and_labels, image_root, label_root, remedy=_TREE),
            class_names,
            colors,
            ignore_label=65535 if len(class_names) > 255 else 255,
            image_root=str(image_root),
            sem_seg_root=str(label_root),
        )
    return names


def read_classes(path: str | os.PathLike) -> tuple[list[str], list[list[int]]]:
    """Reads classes.txt.

    Returns:
        the K names in the order of the ids, and K colours [r, g, b]; classes without a colour of
        their own get one from `default_color`.

    Raises:
        InputError: the file is missing, names no class, names one twice, or has a colour that is
            none.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # to open a pipe would wait for ever
        raise InputError(f"{path} is no file: write it. {_TREE}")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} is not there: write it. {_TREE}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): write it as UTF-8 text.") from error

    line_of: dict[str, int] = {}
    colors = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        name, color = _name_and_color(line)
        if color is not None and max(color) > 255:
            raise InputError(
                f'{path}, line {number}: the colour of "{name}" is {color}: write three numbers '
                "from 0 to 255, or #rrggbb."
            )
        if name in line_of:
            raise InputError(
                f'{path}, line {number}: the class "{name}" is named on line {line_of[name]} '
                "already: give each class a name of its own."
            )
        colors.append(color or default_color(len(line_of)))
        line_of[name] = number
    if not line_of:
        raise InputError(f"{path} names no class: write a class name a line, in the order of ids.")
    if len(line_of) > 65535:
        raise InputError(f"{path} names {len(line_of)} classes: 16-bit labels have room for 65535.")
    return list(line_of), colors


def _name_and_color(line: str) -> tuple[str, list[int] | None]:
    if match := re.fullmatch(r"(.+?)\s+#([0-9a-fA-F]{6})", line):
        return match[1], list(bytes.fromhex(match[2]))
    if match := re.fullmatch(r"(.+?)\s+(\d+)\s+(\d+)\s+(\d+)", line):
        return match[1], [int(match[i][:9]) for i in (2, 3, 4)]  # Python reads no longer numbers
    return line, None


def default_color(class_id: int) -> list[int]:
    """A colour [r, g, b] for a class without one: PASCAL VOC's, of which none is black.

    The bits of `class_id + 1` are dealt in turn to red, green and blue, the most significant first.
    """
    color = [0, 0, 0]
    remaining = class_id + 1
    for shift in range(7, -1, -1):
        for channel in range(3):
            color[channel] |= (remaining & 1) << shift
            remaining >>= 1
    return color


def default_colors(num_classes: int) -> list[list[int]]:
    """The `default_color` of each of K classes; all differ."""
    return [default_color(class_id) for class_id in range(num_classes)]


def pair_images_and_labels(
    image_root: str | os.PathLike, label_root: str | os.PathLike, *, remedy: str
) -> list[dict]:
    """Lists the images under a folder with their labels, which have the same path but end in .png.

    A label without image is left out, with a warning in the log.

    Args:
        image_root: the folder of the images, sub-folders included.
        label_root: the folder of the labels.
        remedy: the end of the error messages: what the folders should hold.

    Returns:
        data set dicts with "file_name", "sem_seg_file_name" and "image_id" (the path under
        `image_root` without its ending), sorted by "image_id".

    Raises:
        InputError: no such folder, no image in it, two images of one name, images without label.
    """
    images = _files_by_stem(image_root, IMAGE_SUFFIXES, "images", remedy)
    labels = _files_by_stem(label_root, LABEL_SUFFIXES, "labels", remedy)
    unlabelled = [os.path.basename(images[stem]) for stem in sorted(images.keys() - labels.keys())]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of {len(images)} images in {image_root} have no label in "
            f"{label_root}: {listed(unlabelled)}. Add a PNG of the same name for each, or "
            f"take the images out. {remedy}"
        )
    orphans = [os.path.basename(labels[stem]) for stem in sorted(labels.keys() - images.keys())]
    if orphans:
        logger.warning(
            f"{len(orphans)} labels in {label_root} have no image in {image_root} and are not "
            f"used: {listed(orphans)}."
        )
    return [
        {"file_name": images[stem], "sem_seg_file_name": labels[stem], "image_id": stem}
        for stem in sorted(images)
    ]


def _files_by_stem(
    folder: str | os.PathLike, suffixes: tuple[str, ...], what: str, remedy: str
) -> dict[str, str]:
    """Path of every file under `folder` with one of the suffixes, by its relative path without."""
    if not os.path.isdir(folder):
        raise InputError(f"There is no folder {folder} of {what}. {remedy}")

    def refuse(error: OSError) -> None:
        raise InputError(f"The folder {folder} of {what} cannot be read: {error}.") from error

    found: dict[str, str] = {}
    for directory, subfolders, files in os.walk(folder, followlinks=True, onerror=refuse):
        for subfolder in subfolders:
            _refuse_circle(directory, subfolder)
        for file in files:
            stem, suffix = os.path.splitext(file)
            # Names with a leading dot are the systems' own (macOS writes ._NAME.jpg).
            if file.startswith(".") or suffix.lower() not in suffixes:
                continue
            path = os.path.join(directory, file)
            key = Path(directory, stem).relative_to(folder).as_posix()
            if key in found:
                raise InputError(
                    f"{found[key]} and {path} have the same name, so that they would share a "
                    "label: rename or remove one."
                )
            found[key] = path
    if not found:
        raise InputError(
            f"The folder {folder} holds no {what} ({', '.join(suffixes)}): fill it. {remedy}"
        )
    return found


def _refuse_circle(directory: str, subfolder: str) -> None:
    link = os.path.join(directory, subfolder)
    target = os.path.realpath(link)
    if os.path.islink(link) and Path(os.path.realpath(directory)).is_relative_to(target):
        raise InputError(f"The link {link} leads back to {target}, which it is in: remove it.")
