"""Find out what the columns of a text file with points mean, from its first lines."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sar.data.clouds.rows import BYTE_ORDER_MARK, is_number
from sar.errors import InputError, listed, shortened

_XYZ, _RGB = ["x", "y", "z"], ["red", "green", "blue"]
# The names of the columns by their number, in files that name none.
_COLUMNS = {3: _XYZ, 6: [*_XYZ, *_RGB], 7: [*_XYZ, *_RGB, "label"]}
# The same after a line with the number of points: the format PTS of laser scanners.
_COLUMNS_OF_PTS = {
    3: _XYZ, 4: [*_XYZ, "intensity"], 6: [*_XYZ, *_RGB], 7: [*_XYZ, "intensity", *_RGB],
}  # fmt: skip
_HOW_TO_NAME = "Add a first line with their names, such as `x y z intensity` or `x y z label`."
_COMMENTS = ("#", "//")
_MAX_LINE = 2**16  # characters


@dataclass(frozen=True)
class Layout:
    """Columns and start of the points in a text file, from its first lines.

    Attributes:
        names: the names of the columns.
        separator: the character between the numbers; None: blanks and tabs.
        header: where the line with the names starts and ends; None if there is none.
        start: where the line of the first point starts.
        line: the number of this line, counted from 1.
        count: the number of points, if the file gives it.
    """

    names: list[str]
    separator: str | None
    header: tuple[int, int] | None
    start: int
    line: int
    count: int | None


def find_layout(data: bytes, path: Path) -> Layout:
    """Return the layout of a text file.

    Args:
        data: the file.
        path: its name, for errors.

    Raises:
        InputError: there are no points; or the columns have no names and could mean several things,
            or a wrong number of names; or a second line has no numbers.
    """
    names: list[str] = []
    header = count = None
    is_named = False
    for number, start, end in _lines(data, path):
        line = data[start:end].decode("utf-8", "replace").strip()
        comment = next((mark for mark in _COMMENTS if line.startswith(mark)), "")
        separator = separator_of(line)
        words = split(line.removeprefix(comment), separator)
        if comment:
            if {*_XYZ} <= {word.lower() for word in words}:
                names, header = words, (start, end)
        elif not all(map(is_number, words)):
            if is_named:
                raise InputError(
                    f"Line {number} of the cloud {path} is {shortened(line)}. Expected numbers: "
                    "write decimal points, and the ids of the classes instead of their names."
                )
            names, header, is_named = words, (start, end), True
        elif len(words) == 1 and words[0].isdigit() and count is None and not is_named:
            count = int(words[0])
        elif words:
            names = names or _unnamed(len(words), count, path)
            if len(names) != len(words):
                raise InputError(
                    f"The cloud {path} names {len(names)} columns ({listed(names, 8)}), but its "
                    f"first point, line {number}, has {len(words)} numbers. Correct the names."
                )
            return Layout(names, separator, header, start, number, count)
    raise InputError(f"The cloud {path} has no points: remove it from the data set.")


def looks_like_point(line: bytes) -> bool:
    """Return whether a line begins with three numbers, or names the columns x, y and z.

    All separators count, so that numbers with decimal commas also look like a point.
    """
    words = re.split(r'[\s,;"]+', line.decode("utf-8", "replace").strip(' \t,;"\ufeff').lower())
    return {*_XYZ} <= {*words} or (len(words) >= 3 and all(map(is_number, words[:3])))


def separator_of(line: str) -> str | None:
    """Return the character that separates the columns of a line; None: blanks and tabs."""
    return next((mark for mark in ";," if mark in line), None)


def split(line: str, separator: str | None) -> list[str]:
    """Return the columns of a line without the blanks and quotes around them.

    An empty last column is left out, because some programs end each line with a separator.
    """
    words = [word.strip(' \t"') for word in line.strip().split(separator)]
    return words[:-1] if words and not words[-1] else words


def _lines(data: bytes, path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield the number of each line that is not empty, and where it starts and ends."""
    number = 0
    start = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
    while start < len(data):
        number += 1
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        if end - start > _MAX_LINE:
            raise InputError(
                f"Line {number} of the cloud {path} has {end - start} characters. Expected one "
                "point on each line: convert the file, or give it the suffix of its format."
            )
        if data[start:end].strip():
            yield number, start, end
        start = end + 1


def _unnamed(columns: int, count: int | None, path: Path) -> list[str]:
    # Without its first line, a PTS file of 7 columns looks like points with colours and labels.
    is_unclear = columns == 7 and count is None and path.suffix.lower() == ".pts"
    names = (_COLUMNS if count is None else _COLUMNS_OF_PTS).get(columns)
    if names is None or is_unclear:
        raise InputError(
            f"The cloud {path} has {columns} columns without names, and their meaning is unclear. "
            f"{_HOW_TO_NAME}"
        )
    return names
