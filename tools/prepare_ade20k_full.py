#!/usr/bin/env python
"""Write images, labels and classes of ADE20K-Full with 847 classes: ade20k_full_{train,val}.

The program needs these files in ADE20K_2021_17_01/, as downloaded from ade20k.csail.mit.edu after
signing in: images/ADE/{training,validation}/SCENE/.../NAME.jpg with NAME_seg.png and NAME.json.

It writes into ade20k_full/:

  classes.txt                 an index of ADE20K and a name per line; the first line is id 0
  images/{train,val}/*.jpg    larger images are reduced to 512 pixels on the shorter side
  labels/{train,val}/*.png    16 bits, ids 0 to 846; all other pixels are 65535, which is ignored

The classes are all classes with pixels in both splits, in the order of the ADE20K indices. If there
are not exactly 847, nothing is converted. --classes sets other classes or another order, in the
format of classes.txt. A second run only writes missing files.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from sar import cli

EXAMPLE = "python tools/prepare_ade20k_full.py --folder ~/data/ADE20K_2021_17_01"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.download_parser(__doc__, EXAMPLE, "ADE20K_2021_17_01")
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="use these classes instead of the classes of the download",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import numpy as np
from PIL import Image

from sar.data import preparation
from sar.data.datasets.ade20k_full import (
    CLASS_FILE,
    IGNORE,
    NUM_CLASSES,
    NUM_IMAGES,
    PREPARED,
    read_classes,
)
from sar.data.pillow_files import opened, orientation
from sar.errors import InputError
from sar.files.atomic import atomic_path, write_atomically

REMEDY = "`python tools/prepare_ade20k_full.py --help` lists the needed files and their sources."
SHORT_SIDE = 512
_SPLIT_FOLDERS = {"train": "training", "val": "validation"}
_CHUNK = 200  # images whose classes are saved in one file


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    return preparation.run(partial(prepare_ade20k_full, class_file=args.classes), args)


def prepare_ade20k_full(
    folder: Path,
    threads: int,
    class_file: Path | None = None,
    num_images: Mapping[str, int] = NUM_IMAGES,
    num_classes: int = NUM_CLASSES,
    *,
    quiet: bool = False,
) -> None:
    """Write classes, images and labels.

    Raises:
        InputError: a file is missing, or the number of images or classes is not as expected.
    """
    images = {}
    for split, expected in num_images.items():
        of_split = folder / "images" / "ADE" / _SPLIT_FOLDERS[split]
        # Deeper folders hold one instance each.
        images[split] = preparation.list_files(of_split, f"**/ADE_{split}_*.jpg", REMEDY)
        preparation.check_count(images[split], expected, f"images under {of_split}", REMEDY)
        labels = [_seg_file(image) for image in images[split]]
        preparation.check_there(labels, f"labels of the split {split}", REMEDY)
    output = folder / PREPARED
    classes = settle_classes(output, images, threads, class_file, num_classes, quiet=quiet)
    new_ids = np.full(1 << 16, IGNORE, np.uint16)
    new_ids[list(classes)] = np.arange(len(classes))
    for split in num_images:
        preparation.convert_missing(
            lambda image, target: convert(image, target, new_ids),
            {output / "labels" / split / f"{image.stem}.png": image for image in images[split]},
            desc=f"ade20k_full_{split}",
            threads=threads,
            quiet=quiet,
        )


def settle_classes(
    output: Path,
    images: Mapping[str, list[Path]],
    threads: int,
    given: Path | None,
    num_classes: int,
    *,
    quiet: bool,
) -> dict[int, str]:
    """Return the classes of an earlier run, of --classes, or with pixels in both splits."""
    path = output / CLASS_FILE
    given_classes = read_classes(given, REMEDY, num_classes) if given else None
    if os.path.lexists(path):
        classes = read_classes(path, REMEDY, num_classes)
        if given_classes and list(given_classes.items()) != list(classes.items()):
            raise InputError(
                f"{output} was prepared with other classes than the classes of {given}: remove "
                f"{output}, or leave out --classes."
            )
        return classes
    classes = given_classes or find_classes(output / ".found", images, threads, quiet=quiet)
    if len(classes) != num_classes:
        raise InputError(
            f"Expected {num_classes} classes with pixels in both training and validation images, "
            f"found {len(classes)}: this is not ADE20K_2021_17_01. Download it again, "
            "or give the classes with --classes."
        )
    write_atomically(path, "".join(f"{index} {name}\n" for index, name in classes.items()))
    return classes


def find_classes(
    folder: Path, images: Mapping[str, list[Path]], threads: int, *, quiet: bool
) -> dict[int, str]:
    """Return the name of every index with pixels in both splits, in the order of the indices.

    Args:
        folder: keeps intermediate results until all images were read.
    """
    found: dict[str, dict[int, str]] = {}
    files = []
    for split, paths in images.items():
        chunks = {
            folder / f"{split}_{start:05d}.json": paths[start : start + _CHUNK]
            for start in range(0, len(paths), _CHUNK)
        }
        preparation.convert_missing(
            write_found,
            chunks,
            desc=f"Classes of {split}, {_CHUNK} images each",
            threads=threads,
            quiet=quiet,
        )
        found[split] = {}
        for chunk in chunks:
            found[split].update(read_found(chunk))
        files += chunks
    for file in files:
        file.unlink()
    with suppress(OSError):  # the folder stays if it contains other files
        folder.rmdir()
    return {i: found["train"][i] for i in sorted(found["train"].keys() & found["val"].keys())}


def write_found(images: list[Path], target: Path) -> None:
    """Write the names of the indices that have pixels in the images."""
    found: dict[int, str] = {}
    for image in images:
        present = set(np.unique(read_indices(_seg_file(image))).tolist()) - {0}
        if present <= found.keys():
            continue
        path = image.with_suffix(".json")
        try:
            # Some files contain characters that are not UTF-8, but not in class names.
            annotation = json.loads(path.read_bytes().decode("utf-8", errors="replace"))
            names = {o["name_ndx"]: o["name"] for o in annotation["annotation"]["object"]}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path} cannot be read ({error!r}). {REMEDY}") from error
        unnamed = sorted(present - names.keys() - found.keys())
        if unnamed:
            raise InputError(f"{path} has no name for index {unnamed[0]} of its label. {REMEDY}")
        found.update({i: names[i] for i in present - found.keys()})
    write_atomically(target, json.dumps(found))


def read_found(path: Path) -> dict[int, str]:
    """Read a file of `write_found`."""
    try:
        return {int(index): str(name) for index, name in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read, or this program did not write it ({error!r}): move the file "
            "away, and run the program again."
        ) from error


def read_indices(path: Path) -> np.ndarray:
    """Return the ADE20K indices, (H, W) uint16; 0 is unlabelled.

    The index is red // 10 * 256 + green.
    """
    with opened(path, "label") as image:
        pixels = np.asarray(image)
        return (pixels[..., 0] // 10).astype(np.uint16) * 256 + pixels[..., 1]


def convert(source: Path, target: Path, new_ids: np.ndarray) -> None:
    """Write the image if it does not exist, and then the label `target` with the same size."""
    label = Image.fromarray(new_ids[read_indices(_seg_file(source))])
    to = target.parents[2] / "images" / target.parent.name / source.name
    with opened(source, "image") as file:
        is_upright = orientation(file) in (None, 1)
        image = file.convert("RGB")
    if image.size != label.size:
        raise InputError(f"{source} is {image.size}, but its label is {label.size}. {REMEDY}")
    width, height = image.size
    scale = min(1.0, SHORT_SIDE / min(width, height))
    size = (round(width * scale), round(height * scale))
    # Labels match the stored pixels, so the written image must not have an EXIF orientation.
    if os.path.lexists(to):  # from a stopped run, or from the user
        with opened(to, "image") as there:
            if there.size != size:
                raise InputError(
                    f"{to} already exists with size {there.size}, expected {size}: move the file "
                    "away, and run the program again."
                )
    else:
        with atomic_path(to) as temporary:
            if size == image.size and is_upright:
                shutil.copyfile(source, temporary)
            else:
                image.resize(size, Image.Resampling.BILINEAR).save(temporary, quality=95)
    preparation.write_label(np.asarray(label.resize(size, Image.Resampling.NEAREST)), target)


def _seg_file(image: Path) -> Path:
    return image.with_name(f"{image.stem}_seg.png")


if __name__ == "__main__":
    sys.exit(main())
