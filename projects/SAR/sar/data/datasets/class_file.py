"""Read classes.txt: a class name on each line, in the order of the ids.

Exports of annotation tools are read if their ids agree with the order of the lines:

    gravel                 a name, with or without a colour: `gravel 200 0 0`, `gravel #c80000`
    0: gravel              an id and a name, or a name and an id; separated by : , ; = | -> or a
                           tab; also `0. gravel`, `0) gravel`
    0 gravel               only if all lines have an id: `gravel 0`, `gravel (0)`, `class 0 gravel`
    gravel,200,0,0         a name and a colour as CSV
    gravel:200,0,0::       CVAT's labelmap.txt (name:colour:parts:actions)
    __ignore__             the first line of labelme's file, for ignored pixels

A header (`Pixel Value, Class`) may come first. All other lines are refused, because a line that
is read as a name by mistake would shift the ids of all classes after it.
"""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from sar.errors import InputError

Color = list[int]  # r, g, b

_HOW_TO_WRITE = "write one class name on each line, in the order of the ids"
# A line of several columns is a header if all its words are among these.
_HEADER_WORDS = {
    "pixel", "value", "values", "id", "ids", "idx", "index", "train", "class", "classes", "name",
    "names", "label", "labels", "category", "categories", "title", "color", "colour", "rgb", "hex",
    "code", "r", "g", "b", "a", "red", "green", "blue", "alpha", "parts", "actions",
}  # fmt: skip
# A header has a word of the first set. If blanks separate its columns, it has one of the second.
_NAMING_WORDS = {
    "pixel", "value", "id", "idx", "index", "class", "name", "label", "category", "title",
}  # fmt: skip
_COLUMN_WORDS = {"value", "id", "ids", "idx", "index", "name", "names", "r", "hex", "rgb"}
# Headers of a single column; other words of headers, such as "red", may be the name of a class.
_TITLES = {
    "class", "classes", "class label", "class labels", "labels", "category", "categories", "id",
    "name", "names",
}  # fmt: skip
_SEPARATOR = r"(?:\s*(?:[:,;=|\t]|[-=]>)\s*)"
_COLOR = r"(?:rgb)?[(\[]?\s*(\d+)\s*[,;|\s]\s*(\d+)\s*[,;|\s]\s*(\d+)\s*[)\]]?"
_BEFORE_COLOR = rf"(?:{_SEPARATOR}|\s+|(?=[(\[#]))"
_NAME_HEX = re.compile(rf"(.+?){_BEFORE_COLOR}(?:#|0x)([0-9a-fA-F]{{6}}|[0-9a-fA-F]{{3}})")
_NAME_COLOR = re.compile(rf"(.+?){_BEFORE_COLOR}{_COLOR}")
_CVAT = re.compile(r"([^:]+):(?:(\d+)\s*,\s*(\d+)\s*,\s*(\d+))?:[^:]*:[^:]*")
# Numbers that can only be ids; and numbers that may be part of a name: "3 series", "lane 2".
_WITH_ID = (
    re.compile(rf"(?P<id>\d+)(?:{_SEPARATOR}|[.)]\s*(?=[^\d\s]))(?P<name>\S.*)"),
    re.compile(r"[(\[](?P<id>\d+)[)\]]\s*(?P<name>\S.*)"),
    re.compile(rf"(?P<name>\D.*?){_SEPARATOR}(?P<id>\d+)"),
)
_WITH_NUMBER = (
    re.compile(r"(?P<id>\d+)\s+(?P<name>\S.*)"),
    re.compile(r"(?i:class|category|label|index|id)[\s_]+(?P<id>\d+)[:.,]?\s+(?P<name>\S.*)"),
    re.compile(r"(?P<name>\D.*?)\s+(?P<id>\d+)"),
    re.compile(r"(?P<name>\D.*?)\s*[(\[](?P<id>\d+)[)\]]"),
)
# Lines of other formats.
_FOREIGN = re.compile(
    "|".join(
        (
            r"""(?:[-*+]\s|-\d|//|/\*|--|[][{}("'`<>%;|&!#\\]).*""",  # YAML, JSON, XML, comments
            r""".*[][{}"'`,;:=<>|\\]""",
            r".*(?:[\t;|]|,\S|[-=]>|\s#|\s//).*",  # columns, comments behind the name
            r"\d+[\s,]+\d+[\s,].*",  # a colour before the name
            r".*(?:[\s,]+[-+]?(?:\d+\.?|\.)\d*){2,}",  # half a colour, or a colour from 0 to 1
        )
    )
)
_HEX_FIRST = re.compile(r"#(?:[0-9a-fA-F]{3}){1,2}(?![0-9a-zA-Z])")


def read_class_file(path: str | os.PathLike, remedy: str = "") -> list[tuple[str, Color | None]]:
    """Read the classes of a classes.txt.

    Args:
        path: a UTF-8 text file, as the module's docstring describes.
        remedy: the end of the message about a missing file.

    Returns:
        The name (in Unicode's composed form, NFC) and the colour of each of the K classes, in the
        order of the ids. The colour is None for a class without a colour.

    Raises:
        InputError: the file is missing, names no class or one class twice, has a line in another
            form, or has a wrong colour or id.
    """
    lines = _without_header(list(_lines(path, remedy)), path)
    without_colors = [_split_color(line) for _, line in lines]
    split = _split_ids([line for line, _ in without_colors])
    has_ids = any(found is not None for found, _ in split)
    line_of: dict[str, int] = {}
    classes = []
    for (number, line), (_, color), (found, name) in zip(lines, without_colors, split, strict=True):
        place = f"{path}, line {number}"
        if has_ids:
            _check_id(found, len(classes), line, place)
        is_list = len(lines) == 1 and "," in name
        if name == "__ignore__" or _FOREIGN.fullmatch(name) or is_list:
            raise InputError(f'{place}: "{line}" is not a class name: {_HOW_TO_WRITE}.')
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
        classes.append((name, color))
    if not classes:
        raise InputError(f"{path} names no class: {_HOW_TO_WRITE}.")
    if len(classes) > 65535:
        raise InputError(f"{path} names {len(classes)} classes: 16-bit labels have room for 65535.")
    return classes


def _lines(path: str | os.PathLike, remedy: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that stands for a class."""
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise InputError(f"{path} is not a file: write it. {remedy}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} is not there: write it. {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): write it as UTF-8 text.") from error
    for number, line in enumerate(unicodedata.normalize("NFC", text).splitlines(), start=1):
        # Otherwise the patterns below would be slow for a long run of blanks.
        line = re.sub(r"\s+", lambda run: "\t" if "\t" in run[0] else " ", line.strip())
        if _HEX_FIRST.match(line):
            raise InputError(
                f'{path}, line {number}: "{line}" may be a colour or a comment: write a colour '
                "behind the name, and a blank after the # of a comment."
            )
        if not line or line.startswith("#"):
            continue
        if any(unicodedata.category(c) == "Cc" and c != "\t" for c in line):
            raise InputError(
                f"{path}, line {number}, has control characters: remove them, and {_HOW_TO_WRITE}."
            )
        yield number, line


def _without_header(lines: list[tuple[int, str]], path: str | os.PathLike) -> list[tuple[int, str]]:
    if not lines:
        return lines
    (number, first), *others = lines
    if first == "__ignore__" or _is_header(first, others, f"{path}, line {number}"):
        return others
    return lines


def _is_header(line: str, others: list[tuple[int, str]], place: str) -> bool:
    columns = [words for part in re.split(r"[,;:|\t]", line) if (words := _words(part))]
    words = {word for column in columns for word in column}
    if not words or not words <= _HEADER_WORDS:
        return False
    if len(columns) > 1:
        return bool(words & _NAMING_WORDS)
    has_columns = len(words) > 1 and words & _COLUMN_WORDS
    if has_columns and others and all(re.search(r"\d", other) for _, other in others):
        return True
    if has_columns or " ".join(columns[0]) in _TITLES:
        raise InputError(
            f'{place}: "{line}" looks like a header: remove the line, or give the class a longer '
            "name."
        )
    return False


def _words(column: str) -> list[str]:
    """Return the words of a column's title in lower case: "trainId" has two."""
    column = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column)
    return re.sub(r"[_\s\"'-]+", " ", column).lower().split()


def _split_color(line: str) -> tuple[str, Color | None]:
    """Return a line without its colour, and the colour."""
    if match := _CVAT.fullmatch(line) or _NAME_COLOR.fullmatch(line):
        return match[1].strip(), [int(match[i][:9]) for i in (2, 3, 4)] if match[2] else None
    if match := _NAME_HEX.fullmatch(line):
        digits = match[2] if len(match[2]) == 6 else "".join(2 * digit for digit in match[2])
        return match[1].strip(), list(bytes.fromhex(digits))
    return line, None


def _split_ids(lines: list[str]) -> list[tuple[str | None, str]]:
    """Return the id of each line, or None, and the rest of the line."""
    matches = [
        next(filter(None, (form.fullmatch(line) for form in _WITH_ID)), None) for line in lines
    ]
    for form in () if any(matches) else _WITH_NUMBER:
        found = [form.fullmatch(line) for line in lines]
        names = [match["name"] for match in found if match]
        num_equal = sum(
            match is not None and int(match["id"][:9]) == i for i, match in enumerate(found)
        )
        # The numbers of "lane 1" and "lane 2" are parts of the names.
        if len(set(names)) == len(names) and (all(found) or num_equal > 1):
            matches = found
            break
    return [
        (match["id"], match["name"]) if match else (None, line)
        for line, match in zip(lines, matches, strict=True)
    ]


def _check_id(found: str | None, expected: int, line: str, place: str) -> None:
    if found is None:
        raise InputError(
            f'{place}: "{line}" has no id, but other lines have: {_HOW_TO_WRITE}, without ids.'
        )
    if int(found[:9]) != expected:  # Python limits the length of a number
        raise InputError(
            f'{place}: "{line}" has the number {found[:9]}, but the line stands for the id '
            f"{expected}: {_HOW_TO_WRITE}, without ids; if the number is part of the name, join "
            'them with "_".'
        )
