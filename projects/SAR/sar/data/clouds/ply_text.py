"""Read and write the vertices of PLY files in text form, one vertex on each line."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sar.data.clouds.ply_header import Element, Header, Property
from sar.data.clouds.rows import parse_rows
from sar.errors import InputError, shortened


def read_columns(file: BinaryIO, header: Header, path: Path) -> Callable[[str], np.ndarray]:
    """Return a function that returns the numbers (N,) of a property of the vertices.

    Raises:
        InputError: the file is shorter than its header says, or a line is wrong.
    """
    vertex = header.vertex
    scalars = {item.name: item for item in vertex.properties if not item.is_list}
    skipped = sum(element.count for element in header.before)
    room = os.fstat(file.fileno()).st_size - header.size
    # Each number takes two bytes at least: a digit, and a blank or a line break.
    if skipped + 2 * len(scalars) * vertex.count - 1 > room:
        raise _too_short(vertex.count, path)
    source, line = path, len(header.lines) + skipped + 1
    if vertex.has_lists:
        file.seek(0)
        source = _without_lists(file.read(), header, path)
    table = parse_rows(source, len(scalars), path, first_line=line, count=vertex.count)
    if len(table) < vertex.count:
        raise _too_short(vertex.count, path)
    indices = {name: index for index, name in enumerate(scalars)}

    def column(name: str) -> np.ndarray:
        return _typed(table[:, indices[name]], scalars[name], path)

    return column


def with_labels(
    data: bytes, header: Header, place: Property | None, labels: np.ndarray, path: Path
) -> Iterator[bytes | memoryview]:
    """Yield the data after the header, with other labels of the vertices.

    Args:
        data: the whole file.
        place: the property that holds the labels; None: append them to each line.
        labels: (N,) whole numbers.
        path: the file, for errors.

    Raises:
        InputError: as in `read_columns`.
    """
    vertex = header.vertex
    start, stop, lines = _lines(data, header, path)
    yield memoryview(data)[header.size : start]
    index = None if place is None else vertex.properties.index(place)
    for (number, words), label in zip(lines, labels.tolist(), strict=True):
        places = _places(words, vertex, path, number)
        if index is None:
            words.append(b"%d" % label)
        else:
            words[places[index]] = b"%d" % label
        yield b" ".join(words) + header.newline
    yield memoryview(data)[stop:]


def _lines(
    data: bytes, header: Header, path: Path
) -> tuple[int, int, Iterator[tuple[int, list[bytes]]]]:
    """Return where the vertices start and end in a file, and the number and words of each line.

    Empty lines are skipped, as `parse_rows` skips them.

    Raises:
        InputError: the file has fewer lines than its header promises.
    """
    before = sum(element.count for element in header.before)
    mark = header.newline[-1]
    body = np.frombuffer(data, np.uint8)[header.size :]
    ends = np.flatnonzero(body == mark) + 1
    if len(body) and body[-1] != mark:  # the last line has no line break
        ends = np.append(ends, len(body))
    starts = np.insert(ends, 0, 0)[:-1]
    filled = np.flatnonzero(np.logical_or.reduceat(body > ord(" "), starts))
    filled = filled[filled >= before][: header.vertex.count]
    if len(filled) < header.vertex.count:
        raise _too_short(header.vertex.count, path)
    start, stop = header.size + int(starts[filled[0]]), header.size + int(ends[filled[-1]])
    lines = map(bytes.split, data[start:stop].split(header.newline[-1:]))
    numbered = enumerate(lines, len(header.lines) + int(filled[0]) + 1)
    return start, stop, ((number, words) for number, words in numbered if words)


def _without_lists(data: bytes, header: Header, path: Path) -> list[str]:
    vertex = header.vertex
    scalars = [index for index, item in enumerate(vertex.properties) if not item.is_list]
    result = []
    for number, words in _lines(data, header, path)[2]:
        places = _places(words, vertex, path, number)
        result.append(b" ".join(words[places[index]] for index in scalars).decode("latin-1"))
    return result


def _too_short(count: int, path: Path) -> InputError:
    return InputError(
        f"The cloud {path} has fewer than the {count} vertices that its header promises: it is "
        "truncated or damaged. Copy it again from its source."
    )


def _places(words: list[bytes], vertex: Element, path: Path, number: int) -> Sequence[int]:
    """Return the index of the first word of each property of a vertex.

    Raises:
        InputError: the line has too few or too many words.
    """
    if not vertex.has_lists and len(words) == len(vertex.properties):
        return range(len(words))
    places = []
    position = 0
    for item in vertex.properties:
        places.append(position)
        if item.is_list:
            length = words[position] if position < len(words) else b""
            position += int(length) if length.isdigit() else len(words)
        position += 1
    if position != len(words):
        raise InputError(
            f"Line {number} of the cloud {path} has {len(words)} numbers, which do not fit the "
            "properties of its vertices: export it again."
        )
    return places


def _typed(values: np.ndarray, item: Property, path: Path) -> np.ndarray:
    """Return numbers in the type of their property.

    Raises:
        InputError: the type has whole numbers, and a value is not one or does not fit.
    """
    dtype = np.dtype(item.type)
    if dtype.kind == "f":
        return values
    limits = np.iinfo(dtype)
    fits = (np.rint(values) == values) & (limits.min <= values) & (values <= limits.max)
    if not fits.all():
        point = int(np.argmin(fits))
        raise InputError(
            f"The property {shortened(item.name)} of vertex {point} (counted from 0) of the cloud "
            f"{path} is {values[point]:g}. Expected a whole number from {limits.min} to "
            f"{limits.max}, as its header says: export the cloud again."
        )
    return values.astype(dtype)
