#!/usr/bin/env python
"""Write the point clouds of S3DIS with 13 classes, for DATASETS.FOLDER.

The program needs the areas of Stanford3dDataset_v1.2.zip, from the form at
buildingparser.stanford.edu/dataset.html, in Stanford3dDataset_v1.2/:

  Area_{1,...,6}/ROOM/Annotations/CLASS_N.txt    x, y, z, red, green and blue of a point per line

The aligned version has the same layout: give it with --folder. The program writes into
Stanford3dDataset_v1.2/:

  rooms/AREA_ROOM.npz                            272 clouds: xyz in metres, color, and label with
                                                 ids 0 to 12; about 4 GB
  test_area_5/classes.txt                        the 13 class names
  test_area_5/clouds/{train,val}/AREA_ROOM.npz   links to the rooms; val has the rooms of area 5

--test-area chooses another area for val. Six runs prepare the folds of the cross-validation; each
room is written once. `stairs` and other objects without a class count as clutter, as usual. Lines
with a broken character are repaired, and named. A second run only writes missing files.
"""

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sar import cli

EXAMPLE = "python tools/prepare_s3dis.py --folder ~/data/Stanford3dDataset_v1.2 --test-area 5"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.download_parser(__doc__, EXAMPLE, "Stanford3dDataset_v1.2", output=True)
    parser.add_argument(
        "--test-area",
        type=int,
        choices=range(1, 7),
        default=5,
        help="the area for validation; all others are for training (default: %(default)s)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import io
import logging
import re

import numpy as np

from sar.data import preparation
from sar.errors import InputError

logger = logging.getLogger("prepare_s3dis")
REMEDY = "`python tools/prepare_s3dis.py --help` lists the needed files and their sources."
CLASSES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa",
    "bookcase", "board", "clutter",
)  # fmt: skip
NUM_ROOMS = {1: 44, 2: 40, 3: 23, 4: 49, 5: 68, 6: 48}
_COLUMNS = 6
_GOOD = b"0123456789+-.eE \t\r\n"
_BROKEN = re.compile(b"[^" + re.escape(_GOOD) + b"]+")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    return preparation.run(
        partial(prepare_s3dis, test_area=args.test_area, output=args.output), args
    )


def prepare_s3dis(
    folder: Path,
    threads: int,
    test_area: int = 5,
    output: Path | None = None,
    num_rooms: Mapping[int, int] = NUM_ROOMS,
    *,
    quiet: bool = False,
) -> None:
    """Write the rooms, and a folder with links for one test area.

    Raises:
        InputError: files are missing, an area has another number of rooms, or a line is wrong.
    """
    output = output or folder
    rooms: dict[int, dict[Path, Path]] = {}
    for area, expected in num_rooms.items():
        name = f"Area_{area}"
        found = preparation.list_files(folder / name, "*/Annotations", REMEDY)
        preparation.check_count(found, expected, f"rooms in {folder / name}", REMEDY)
        rooms[area] = {output / "rooms" / f"{name}_{room.parent.name}.npz": room for room in found}
        for room in found:
            if not preparation.list_files(room, "*.txt", REMEDY):
                raise InputError(f"{room} has no file CLASS_N.txt. {REMEDY}")
    fold = output / f"test_area_{test_area}"
    preparation.write_classes(fold, CLASSES)
    for area, sources in rooms.items():
        preparation.convert_missing(
            convert, sources, desc=f"S3DIS Area_{area}", threads=threads, quiet=quiet
        )
    links = {
        fold / "clouds" / ("val" if area == test_area else "train") / room.name: room
        for area, sources in rooms.items()
        for room in sources
    }
    preparation.convert_missing(
        preparation.link, links, desc=fold.name, threads=threads, quiet=quiet
    )


def convert(room: Path, target: Path) -> None:
    """Write the cloud of a room: the points of all its objects."""
    objects = preparation.list_files(room, "*.txt", REMEDY)
    points = [read_points(path) for path in objects]
    classes = np.array([class_of(path) for path in objects], np.uint8)
    preparation.write_cloud(
        target,
        xyz=np.concatenate([part[:, :3] for part in points]),
        color=np.concatenate([part[:, 3:] for part in points]).astype(np.uint8),
        label=classes.repeat([len(part) for part in points]),
    )


def class_of(path: Path) -> int:
    """Return the class of an object's file, CLASS_N.txt; other names count as clutter."""
    name = path.name.split("_")[0]
    return CLASSES.index(name if name in CLASSES else "clutter")


def read_points(path: Path) -> np.ndarray:
    """Return x, y and z in metres, and red, green and blue (0 to 255), (N, 6) float32.

    Raises:
        InputError: the file cannot be read, or a line does not have six such numbers.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}). {REMEDY}") from error
    if not data.strip():
        raise InputError(f"{path} has no points. {REMEDY}")
    if data.translate(None, _GOOD):  # faster than a search for _BROKEN
        data = repair(data, path)
    try:
        points = np.loadtxt(io.BytesIO(data), np.float32, comments=None, ndmin=2)
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({error}). {REMEDY}") from error
    if points.shape[1] != _COLUMNS:
        raise InputError(
            f"{path} has {points.shape[1]} numbers per line, expected {_COLUMNS}. {REMEDY}"
        )
    colors = points[:, 3:]
    if not np.isfinite(points).all() or colors.min() < 0 or colors.max() > 255:
        raise InputError(f"{path} has a number that is not finite or a wrong colour. {REMEDY}")
    return points


def repair(data: bytes, path: Path) -> bytes:
    """Return the text of a file without broken characters. Warn about each line with one.

    A broken character stands for the blank between two numbers, or for a digit behind a decimal
    point (`185?187` and `103.0?0000`). Six numbers must result.

    Raises:
        InputError: a line cannot be repaired.
    """
    lines = data.split(b"\n")
    for i, line in enumerate(lines):
        if not _BROKEN.search(line):
            continue
        place = f"{path}, line {i + 1}"
        repaired = (_BROKEN.sub(instead, line) for instead in (b" ", b""))
        lines[i] = next((text for text in repaired if len(text.split()) == _COLUMNS), b"")
        if not lines[i]:
            raise InputError(f"{place}: expected six numbers, found {line[:80]!r}. {REMEDY}")
        logger.warning(f"{place} has a broken character: {line!r} is read as {lines[i]!r}.")
    return b"\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
