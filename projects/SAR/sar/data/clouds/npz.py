"""Read clouds in the project's own format: a file of NumPy arrays.

The array `xyz` (N, 3) is required. The arrays `color` (N, 3), `intensity` (N,), `normal` (N, 3) and
`label` (N,) are optional, and other arrays are not read. Arrays of Python objects, which could
execute code, are refused.
"""

import math
import shutil
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from sar.data.clouds.cloud import Cloud
from sar.data.clouds.values import (
    as_color,
    as_intensity,
    as_label,
    as_normal,
    as_xyz,
    check_labels,
    check_not_empty,
)
from sar.errors import InputError, dimensions, listed

SUFFIXES = (".npz",)
LABEL_PLACE = "an array label"
# Deflate compresses to not less than 1/1032. A larger share is a wrong size in a header, and would
# reserve a huge memory.
_MAX_COMPRESSION = 1032
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read(path: Path) -> Cloud:
    """Read a cloud.

    Raises:
        InputError: `xyz` is missing, or an array has a wrong shape or type or does not fit the
            size of the file.
    """
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if _member("xyz") not in names:
            raise InputError(
                f"The cloud {path} has no array xyz. Its arrays are "
                f"{listed(sorted(name.removesuffix('.npy') for name in names)) or 'none'}. "
                "Write the coordinates (N, 3) as xyz."
            )
        xyz = as_xyz(_array(archive, path, "xyz", (None, 3)).T, path)
        color, intensity, normal, label = (
            _array(archive, path, name, (len(xyz), *sides)) if _member(name) in names else None
            for name, sides in (("color", (3,)), ("intensity", ()), ("normal", (3,)), ("label", ()))
        )
    return Cloud(
        xyz,
        color=None if color is None else as_color(color.T, path),
        intensity=None if intensity is None else as_intensity(intensity, path),
        normal=None if normal is None else as_normal(normal.T, path),
        label=None if label is None else as_label(label, path),
    )


def read_label(path: Path) -> np.ndarray | None:
    """Read the labels of a cloud, or of a file that has only labels, as (N,) int64.

    Raises:
        InputError: as in `read`.
    """
    with zipfile.ZipFile(path) as archive:
        if _member("label") not in archive.namelist():
            return None
        label = as_label(_array(archive, path, "label", (None,)), path)
    check_not_empty(len(label), path)
    return label


def write_labels(path: Path, labels: np.ndarray, target: Path) -> None:
    """Write a copy of a cloud with other labels. All other arrays keep their bytes.

    Raises:
        InputError: the number of labels differs, or as in `read`.
    """
    name = _member("label")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as copy:
        points = len(_array(archive, path, "xyz", (None, 3)))
        check_labels(labels, points, (-(2**63), 2**63 - 1), path)
        for info in archive.infolist():
            if info.filename != name:
                with (
                    archive.open(info) as member,
                    copy.open(_new_entry(info), "w", force_zip64=True) as written,
                ):
                    shutil.copyfileobj(member, written, 2**20)
        entry = zipfile.ZipInfo(name)
        entry.compress_type = archive.getinfo(_member("xyz")).compress_type
        with copy.open(entry, "w", force_zip64=True) as written:
            small = np.min_scalar_type(labels.max()) if labels.min() >= 0 else labels.dtype
            np.lib.format.write_array(written, labels.astype(small), allow_pickle=False)


def _member(name: str) -> str:
    return f"{name}.npy"


def _array(
    archive: zipfile.ZipFile, path: Path, name: str, expected: tuple[int | None, ...]
) -> np.ndarray:
    """Return an array, after its header was compared with the size of its part of the file.

    Args:
        expected: the shape; None stands for any size.
    """
    info = archive.getinfo(_member(name))
    with archive.open(info) as member:
        shape, dtype = _header(member)
        start = member.tell()
    if dtype.kind not in "biuf":
        raise InputError(
            f"The array {name} of the cloud {path} has the type {dtype}. Expected numbers: "
            "write it again with numpy.savez."
        )
    if len(shape) != len(expected) or any(
        size not in (None, found) for size, found in zip(expected, shape, strict=True)
    ):
        sides = dimensions([size or "N" for size in expected])
        raise InputError(
            f"The array {name} of the cloud {path} has the shape {dimensions(shape)}. "
            f"Expected {sides}."
        )
    stored = min(info.compress_size, path.stat().st_size)
    if info.file_size != start + math.prod(shape) * dtype.itemsize or (
        info.file_size > _MAX_COMPRESSION * stored
    ):
        raise InputError(
            f"The header of the array {name} of the cloud {path} promises {dimensions(shape)} "
            f"numbers, which is not the size of its data: copy the file again from its source."
        )
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    shape, _, dtype = _READ_HEADER[version](member)
    return shape, dtype


def _new_entry(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(info.filename, info.date_time)
    entry.compress_type = info.compress_type
    return entry
