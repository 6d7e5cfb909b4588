"""Read and write the vertices of binary PLY files."""

import os
import struct
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sar.data.clouds.ply_header import Element, Header, Property
from sar.errors import InputError


def read_columns(file: BinaryIO, header: Header, path: Path) -> Callable[[str], np.ndarray]:
    """Return a function that returns the numbers (N,) of a property of the vertices.

    Without lists in the file, all vertices are read at once. With lists, the place of each record
    depends on the one before. So this takes 0.2 microseconds for each property of each vertex.

    Raises:
        InputError: the file is shorter than its header says.
    """
    vertex, order = header.vertex, header.order
    if any(element.has_lists for element in (*header.before, vertex)):
        file.seek(0)
        data = file.read()
        start = _end_of(header.before, data, header, path)
        places, _ = _walk(data, start, vertex, header, path)
        return _gathering(np.frombuffer(data, np.uint8), places, vertex, order)
    start = header.size + sum(_size(element) for element in header.before)
    dtype = vertex.dtype(order)
    _check_size(start + _size(vertex), os.fstat(file.fileno()).st_size, path)
    file.seek(start)
    return np.fromfile(file, dtype, vertex.count).__getitem__


def with_labels(
    data: bytes, header: Header, place: Property | None, values: np.ndarray, path: Path
) -> Iterator[bytes | memoryview]:
    """Yield the data after the header, with other labels of the vertices.

    Args:
        data: the whole file.
        place: the property that holds the labels; None: append them to each vertex.
        values: (N,) labels in the type and byte order of the file.
        path: the file, for errors.

    Raises:
        InputError: as in `read_columns`.
    """
    vertex = header.vertex
    start = _end_of(header.before, data, header, path)
    yield memoryview(data)[header.size : start]
    index = len(vertex.properties) if place is None else vertex.properties.index(place)
    new = values.view(np.uint8).reshape(vertex.count, -1)
    old_size = 0 if place is None else np.dtype(place.type).itemsize
    if vertex.has_lists:
        places, end = _walk(data, start, vertex, header, path)
        begins = places[:, 0].tolist()
        ends = [*begins[1:], end]
        cuts = ends if place is None else places[:, index].tolist()
        for begin, cut, stop, value in zip(begins, cuts, ends, new, strict=True):
            yield data[begin:cut] + value.tobytes() + data[cut + old_size : stop]
    else:
        end = start + _size(vertex)
        _check_size(end, len(data), path)
        records = np.frombuffer(data, np.uint8, end - start, start).reshape(vertex.count, -1)
        dtype = vertex.dtype(header.order)
        cut = dtype.itemsize if place is None else dtype.fields[place.name][1]
        parts = (records[:, :cut], new, records[:, cut + old_size :])
        yield np.concatenate(parts, axis=1).data
    yield memoryview(data)[end:]


def _size(element: Element) -> int:
    return element.count * element.dtype("<").itemsize


def _end_of(elements: list[Element], data: bytes, header: Header, path: Path) -> int:
    position = header.size
    for element in elements:
        if element.has_lists:
            _, position = _walk(data, position, element, header, path)
        else:
            position += _size(element)
    _check_size(position, len(data), path)
    return position


def _walk(
    data: bytes, start: int, element: Element, header: Header, path: Path
) -> tuple[np.ndarray, int]:
    """Return the position of each property of each record, and the end of the last record.

    Returns:
        (records, properties) int64, and the end.

    Raises:
        InputError: the data ends too early.
    """
    steps = [
        (
            struct.Struct(header.order + np.dtype(item.length_type).char) if item.is_list else None,
            np.dtype(item.type).itemsize,
        )
        for item in element.properties
    ]
    places = array("q")
    position = start
    for _ in range(element.count):
        for length, size in steps:
            places.append(position)
            if length is None:
                position += size
            else:
                _check_size(position + length.size, len(data), path)
                (number,) = length.unpack_from(data, position)
                if number < 0:
                    raise InputError(
                        f"The cloud {path} has a list of {number} numbers: the file is damaged. "
                        "Copy it again from its source."
                    )
                position += length.size + number * size
        _check_size(position, len(data), path)
    return np.array(places, np.int64).reshape(element.count, len(steps)), position


def _gathering(
    data: np.ndarray, places: np.ndarray, vertex: Element, order: str
) -> Callable[[str], np.ndarray]:
    indices = {item.name: index for index, item in enumerate(vertex.properties)}

    def column(name: str) -> np.ndarray:
        index = indices[name]
        dtype = np.dtype(order + vertex.properties[index].type)
        found = data[places[:, index, None] + np.arange(dtype.itemsize)]
        return found.view(dtype)[:, 0]

    return column


def _check_size(needed: int, size: int, path: Path) -> None:
    if needed > size:
        raise InputError(
            f"The cloud {path} has {size} bytes, but its header promises at least {needed}: it is "
            "truncated or damaged. Copy it again from its source."
        )
