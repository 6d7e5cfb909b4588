"""Read the header of a PLY file: its elements, their properties, and where the data starts."""

import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from sar.errors import InputError, shortened

# Types of NumPy without byte order.
_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_LIST_LENGTHS = ("i1", "u1", "i2", "u2", "i4", "u4")
# The byte order for NumPy; None: text.
_FORMATS = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}
MAX_HEADER = 2**20  # bytes
_FIRST_LINE = re.compile(rb"ply[ \t]*(\r\n|\n|\r)")


@dataclass(frozen=True)
class Property:
    """A property of an element.

    Attributes:
        type: NumPy's type without byte order, such as "f4"; of the items if it is a list.
        length_type: the same of the length of a list; None for a single number.
        line: the number of its line in the header, counted from 0.
    """

    name: str
    type: str
    length_type: str | None
    line: int

    @property
    def is_list(self) -> bool:
        return self.length_type is not None


@dataclass(frozen=True)
class Element:
    """An element, such as "vertex" or "face", with the number of its records."""

    name: str
    count: int
    properties: list[Property]

    @property
    def has_lists(self) -> bool:
        return any(property.is_list for property in self.properties)

    def dtype(self, order: str) -> np.dtype:
        """Return the type of a record without lists, in the byte order "<" or ">"."""
        return np.dtype([(property.name, order + property.type) for property in self.properties])


@dataclass(frozen=True)
class Header:
    """The header of a PLY file.

    Attributes:
        order: the byte order "<" or ">" of the data; None for text.
        elements: in the order of the data.
        lines: the lines of the header as they are written.
        newline: the line break of the header.
        size: bytes of the header, where the data starts.
    """

    order: str | None
    elements: list[Element]
    lines: list[bytes]
    newline: bytes
    size: int

    @property
    def vertex(self) -> Element:
        return self.elements[len(self.before)]

    @property
    def before(self) -> list[Element]:
        """The elements before the vertices."""
        return list(takewhile(lambda element: element.name != "vertex", self.elements))


def read_header(head: bytes, path: Path) -> Header:
    """Read a header.

    Args:
        head: the first MAX_HEADER bytes of the file, or more.
        path: the file, for errors.

    Raises:
        InputError: it is not the header of a PLY file, it has no vertices, or a line is wrong.
    """
    match = _FIRST_LINE.match(head)
    if match is None:
        raise InputError(
            f"The cloud {path} is not a PLY file, because its first line is not `ply`: give it the "
            "suffix of its format, or copy it again from its source."
        )
    newline = match[1]
    lines: list[bytes] = []
    position = 0
    while not lines or lines[-1].strip() != b"end_header":
        end = head.find(newline, position, MAX_HEADER)
        if end < 0:
            raise InputError(
                f"The header of the cloud {path} has no line `end_header`: the file is truncated "
                "or damaged. Copy it again from its source."
            )
        lines.append(head[position:end])
        position = end + len(newline)
    order, elements = _parse(lines, path)
    return Header(order, elements, lines, newline, position)


def _parse(lines: list[bytes], path: Path) -> tuple[str | None, list[Element]]:
    formats = []
    elements: list[Element] = []
    for number, line in enumerate(lines[:-1]):
        match line.decode("utf-8", "replace").split():
            case ["format", name, "1.0"] if name in _FORMATS:
                formats.append(_FORMATS[name])
            case ["element", name, count] if re.fullmatch("[0-9]{1,18}", count):
                elements.append(Element(name, int(count), []))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append(Property(name, _TYPES[kind], None, number))
            case ["property", "list", length, kind, name] if (
                elements and kind in _TYPES and _TYPES.get(length) in _LIST_LENGTHS
            ):
                item = Property(name, _TYPES[kind], _TYPES[length], number)
                elements[-1].properties.append(item)
            case ["ply"] | ["comment" | "obj_info", *_] | []:
                pass
            case words:
                raise InputError(
                    f"Line {number + 1} of the header of the cloud {path} is "
                    f"{shortened(' '.join(words))}, which PLY does not have: export it again."
                )
    if len(formats) != 1:
        raise InputError(
            f"The header of the cloud {path} has {len(formats)} lines `format`, expected one: "
            "export it again."
        )
    names = [element.name for element in elements]
    if names.count("vertex") != 1:
        raise InputError(
            f"The header of the cloud {path} has {names.count('vertex')} elements vertex, expected "
            "one: export it again with its points as vertices."
        )
    for element in elements:
        if element.name == "vertex" and not element.properties:
            raise InputError(
                f"The vertices of the cloud {path} have no properties: export it again."
            )
        if len({property.name for property in element.properties}) < len(element.properties):
            raise InputError(
                f"The header of the cloud {path} gives two properties of the element "
                f"{element.name} the same name: rename one."
            )
    return formats[0], elements
