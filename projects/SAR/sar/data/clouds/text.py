"""Read clouds in text files: one point on each line.

Numbers are separated by blanks, tabs, commas or semicolons. A first line may name the columns, also
as a comment: `x y z red green blue label`, `// X Y Z`. `sar.data.clouds.table` knows the names.
Without names, 3 columns are x y z; 6 are x y z red green blue; 7 are x y z red green blue label.
After a line with the number of points (the format PTS), 4 columns are x y z intensity, and 7 are
x y z intensity red green blue.
"""

from pathlib import Path

import numpy as np

from sar.data.clouds.cloud import Cloud
from sar.data.clouds.rows import parse_rows
from sar.data.clouds.table import PointTable, label_name
from sar.data.clouds.text_layout import Layout, find_layout, looks_like_point, separator_of
from sar.data.clouds.values import check_labels
from sar.errors import InputError

SUFFIXES = (".txt", ".xyz", ".csv", ".pts")
LABEL_PLACE = "a column that the first line names label, class or classification"
_INT64 = (-(2**63), 2**63 - 1)
_START = 2**16  # bytes


def may_hold_points(path: Path) -> bool:
    """Return whether the start of a file looks like a cloud, or like a damaged one.

    A line that begins with three numbers, or that names the columns x, y and z, looks like a cloud.
    Empty and binary files count as damaged clouds.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(_START)
    return b"\0" in start or not start.strip() or any(map(looks_like_point, start.splitlines()))


def read(path: Path) -> Cloud:
    """Read a cloud.

    Raises:
        InputError: the meaning of the columns is unclear, a line has other columns or no numbers,
            or as in `PointTable.cloud`.
    """
    return _table(path).cloud()


def read_label(path: Path) -> np.ndarray | None:
    """Read the labels of a cloud as (N,) int64; None if there are none.

    Raises:
        InputError: as in `read`.
    """
    return _table(path).label()


def write_labels(path: Path, labels: np.ndarray, target: Path) -> None:
    """Write a copy of a cloud in which the column of the labels is replaced or added.

    If the file does not name its columns, and the labels are added, a line of names is added, too.

    Raises:
        InputError: the number of labels differs, or as in `read`.
    """
    data = _read(path)
    layout = find_layout(data, path)
    check_labels(labels, len(_numbers(layout, path)), _INT64, path)
    name = label_name(layout.names)
    first = data[layout.start :].partition(b"\n")[0]
    newline = b"\r\n" if first.endswith(b"\r") else b"\n"
    separator = layout.separator and layout.separator.encode()
    joint = separator or (b"\t" if b"\t" in first else b" ")
    lines = (line for line in data[layout.start :].split(b"\n") if line.strip())
    index = len(layout.names) if name is None else layout.names.index(name)
    with open(target, "wb") as file:
        if name is None:
            file.write(_head_with_label(data, layout, joint, newline))
        else:
            file.write(data[: layout.start])
        for line, label in zip(lines, labels.tolist(), strict=True):
            words = line.strip().split(separator)
            words[index : index + 1] = [b"%d" % label]  # added, or instead of an empty last column
            file.write(joint.join(words) + newline)


def _table(path: Path) -> PointTable:
    layout = find_layout(_read(path), path)
    numbers = _numbers(layout, path)
    return PointTable(layout.names, lambda name: numbers[:, layout.names.index(name)], path)


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    if b"\0" in data[:4096]:
        raise InputError(
            f"The cloud {path} is not a text file of ASCII or UTF-8 characters: convert it, or "
            "give it the suffix of its format."
        )
    return data if b"\n" in data else data.replace(b"\r", b"\n")


def _numbers(layout: Layout, path: Path) -> np.ndarray:
    """Return the numbers of all points, (N, columns) float64.

    Raises:
        InputError: a line is wrong, or the number of points is not the one that the file gives.
    """
    numbers = parse_rows(
        path, len(layout.names), path, first_line=layout.line, separator=layout.separator
    )
    if layout.count not in (None, len(numbers)):
        raise InputError(
            f"The cloud {path} has {len(numbers)} points, but its first line promises "
            f"{layout.count}: it is truncated or damaged. Copy it again from its source."
        )
    return numbers


def _head_with_label(data: bytes, layout: Layout, joint: bytes, newline: bytes) -> bytes:
    """Return the lines before the points, with a name for the labels."""
    if layout.header is None:
        names = joint.join(name.encode() for name in (*layout.names, "label"))
        return data[: layout.start] + names + newline
    start, end = layout.header
    line = data[start:end].rstrip()
    mark = separator_of(line.decode("utf-8", "replace")) or ("\t" if b"\t" in line else " ")
    line = line.removesuffix(mark.encode()) + mark.encode() + b"label" + newline
    return data[:start] + line + data[end + 1 : layout.start]
