"""Reading classes.txt: a class name on each line, in the order of the ids.

Exports of annotation tools are read if their ids agree with the order of the lines:

    gravel                 a name, with or without a colour: `gravel 200 0 0`, `gravel #c80000`
    0: gravel              an id and a name, or a name and an id; separated by : , ; = or a tab
    gravel,200,0,0         a name and a colour as CSV
    gravel:200,0,0::       CVAT's labelmap.txt (name:colour:parts:actions)
    __ignore__             labelme's first line, which stands for the ignored pixels

A header (`Pixel Value, Class`) may come first. All other lines are refused: a line that is taken
for a name by mistake shifts the ids of all classes after it.
"""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from sar.errors import InputError, listed

Color = list[int]  # r, g, b

_HOW_TO_WRITE = "write one class name on each line, in the order of the ids"
# A line of two or more of these, or the first line of one of them, is a header.
_HEADER_WORDS = {
    "pixel value", "value", "id", "ids", "index", "class id", "label id", "class", "classes",
    "class name", "class names", "name", "names", "label", "labels", "label name", "color",
    "colour", "color rgb", "colour rgb", "hex", "r", "g", "b", "red", "green", "blue", "parts",
    "actions",
}  # fmt: skip
_COLOR = r"(\d+)\s*[,\s]\s*(\d+)\s*[,\s]\s*(\d+)"
_NAME_HEX = re.compile(r"(.+?)[\s,;]\s*#([0-9a-fA-F]{6})")
_NAME_COLOR = re.compile(rf"(.+?)[\s,;]\s*{_COLOR}")
_CVAT = re.compile(rf"([^:]+):(?:{_COLOR})?:[^:]*:[^:]*")
_ID_NAME = re.compile(r"(\d+)\s*[:,;=\t]\s*(\S.*)")
_ID_BLANK_NAME = re.compile(r"(\d+)\s+(\S.*)")
_NAME_ID = re.compile(r"(?P<name>\D.*?)\s*[:,;=\t]\s*(?P<id>\d+)")
# How lists of other formats begin and end: YAML, JSON, Python, CSV with quotes, colours first.
_FOREIGN = re.compile(r"""[-*]\s.*|[\[\]{}("'`].*|.*[\[\]{}"'`,;:=]|.*\t.*|\d+[\s,]+\d+[\s,].*""")


def read_class_file(path: str | os.PathLike, remedy: str = "") -> list[tuple[str, Color | None]]:
    """Read the classes of a classes.txt.

    Args:
        path: a UTF-8 text file, as the module's docstring describes.
        remedy: the end of the message about a missing file.

    Returns:
        the name (in Unicode's composed form, NFC) of each of the K classes, in the order of the
        ids, and its colour, or None for a class without a colour.

    Raises:
        InputError: the file is missing, names no class, names one twice, or has a line that is
            neither a name nor one of the forms above; a colour or an id is wrong.
    """
    return [(name, color) for _, name, color in _numbered_classes(path, remedy)]


def read_class_colors(path: str | os.PathLike) -> tuple[list[str], list[Color]]:
    """Read a class file that gives each class a colour of its own.

    Returns:
        the K names in the order of the ids, and K different colours [r, g, b].

    Raises:
        InputError: as `read_class_file`; classes without a colour, or two of the same colour.
    """
    classes = _numbered_classes(path)
    if lines := [number for number, _, color in classes if color is None]:
        raise InputError(
            f"{path}: {_on_lines(lines)} without a colour: write a colour behind each name, such "
            "as `kerb 255 0 0`."
        )
    line_of: dict[tuple[int, ...], int] = {}
    for number, name, color in classes:
        if (first := line_of.setdefault(tuple(color), number)) != number:
            raise InputError(
                f'{path}, line {number}: the class "{name}" has the colour {color} of line '
                f"{first}: give each class a colour of its own."
            )
    return [name for _, name, _ in classes], [color for _, _, color in classes]


def _on_lines(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"the class on line {numbers[0]} is"
    return f"the classes on the lines {listed(numbers, 10)} are"


def _numbered_classes(
    path: str | os.PathLike, remedy: str = ""
) -> list[tuple[int, str, Color | None]]:
    """Return what `read_class_file` does, with the number of each class's line in front."""
    lines = list(_lines(path, remedy))
    split = [_split_id(line) for _, line in lines]
    # A blank separates ids from names if it does so in each line: "3 series" can be a name.
    if all(_ID_BLANK_NAME.fullmatch(line) for _, line in lines):
        split = [_ID_BLANK_NAME.fullmatch(line).groups() for _, line in lines]
    has_ids = any(found is not None for found, _ in split)
    line_of: dict[str, int] = {}
    classes = []
    for (number, line), (found, rest) in zip(lines, split, strict=True):
        place = f"{path}, line {number}"
        if has_ids:
            _check_id(found, len(classes), line, place)
        name, color = _name_and_color(rest)
        _check_name(name, place)
        if color is not None and max(color) > 255:
            raise InputError(
                f'{place}: the colour of "{name}" is {color}: write three numbers from 0 to 255, '
                "or #rrggbb."
            )
        if name in line_of:
            raise InputError(
                f'{place}: the class "{name}" is named on line {line_of[name]} already: give each '
                "class a name of its own."
            )
        line_of[name] = number
        classes.append((number, name, color))
    if not classes:
        raise InputError(f"{path} names no class: {_HOW_TO_WRITE}.")
    if len(classes) > 65535:
        raise InputError(f"{path} names {len(classes)} classes: 16-bit labels have room for 65535.")
    return classes


def _lines(path: str | os.PathLike, remedy: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that stands for a class."""
    if os.path.exists(path) and not os.path.isfile(path):  # to open a pipe would wait for ever
        raise InputError(f"{path} is no file: write it. {remedy}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} is not there: write it. {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): write it as UTF-8 text.") from error
    is_first = True
    for number, line in enumerate(unicodedata.normalize("NFC", text).splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if any(unicodedata.category(c) == "Cc" and c != "\t" for c in line):
            raise InputError(
                f"{path}, line {number}, has control characters: remove them, and {_HOW_TO_WRITE}."
            )
        if is_first:
            is_first = False
            if line == "__ignore__" or _is_header(line, f"{path}, line {number}"):
                continue
        yield number, line


def _is_header(line: str, place: str) -> bool:
    words = [word.strip(" \"'").replace("_", " ").lower() for word in re.split(r"[,;:\t]", line)]
    words = [word for word in words if word]
    if not words or not set(words) <= _HEADER_WORDS:
        return False
    if len(words) == 1:
        raise InputError(
            f'{place}: "{line}" looks like a header: remove the line, or give the class a longer '
            "name."
        )
    return True


def _split_id(line: str) -> tuple[str | None, str]:
    """Return the id and the rest of a line; without an id, None and the line."""
    if _CVAT.fullmatch(line):
        return None, line
    if match := _ID_NAME.fullmatch(line):
        return match[1], match[2]
    if match := _NAME_ID.fullmatch(line):
        return (None, line) if _NAME_COLOR.fullmatch(line) else (match["id"], match["name"])
    return None, line


def _check_id(found: str | None, expected: int, line: str, place: str) -> None:
    if found is None:
        raise InputError(
            f'{place}: "{line}" has no id, but other lines have: {_HOW_TO_WRITE}, without ids.'
        )
    if int(found[:9]) != expected:  # Python reads no longer numbers
        raise InputError(
            f'{place}: "{line}" has the number {found[:9]}, but the line stands for the id '
            f"{expected}: {_HOW_TO_WRITE}, without ids; if the number is part of the name, join "
            'them with "_".'
        )


def _name_and_color(line: str) -> tuple[str, Color | None]:
    if match := _CVAT.fullmatch(line):
        return match[1].strip(), [int(match[i][:9]) for i in (2, 3, 4)] if match[2] else None
    if match := _NAME_HEX.fullmatch(line):
        return match[1].strip(), list(bytes.fromhex(match[2]))
    if match := _NAME_COLOR.fullmatch(line):
        return match[1].strip(), [int(match[i][:9]) for i in (2, 3, 4)]
    return line, None


def _check_name(name: str, place: str) -> None:
    if name == "__ignore__" or _FOREIGN.fullmatch(name):
        raise InputError(f'{place}: "{name}" is not a class name: {_HOW_TO_WRITE}.')
