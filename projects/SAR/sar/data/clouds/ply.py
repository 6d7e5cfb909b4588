"""Read clouds in PLY files: text, or binary in both byte orders.

The points are the vertices. All other elements, such as faces, and properties that are lists are
skipped. `sar.data.clouds.table` knows the names of the properties.
"""

from pathlib import Path

import numpy as np

from sar.data.clouds import ply_binary, ply_text
from sar.data.clouds.cloud import Cloud
from sar.data.clouds.ply_header import MAX_HEADER, Header, Property, read_header
from sar.data.clouds.table import PointTable, label_name
from sar.data.clouds.values import check_labels, check_not_empty

SUFFIXES = (".ply",)
LABEL_PLACE = "a property label, class or classification of the vertices"
# Types for labels: the name in PLY, and the type in NumPy.
_LABEL_TYPES = (("uchar", "u1"), ("ushort", "u2"), ("int", "i4"))


def read(path: Path) -> Cloud:
    """Read a cloud.

    Raises:
        InputError: the header is wrong, the file is shorter than its header says, or as in
            `PointTable.cloud`.
    """
    return _table(path).cloud()


def read_label(path: Path) -> np.ndarray | None:
    """Read the labels of a cloud as (N,) int64; None if there are none.

    Raises:
        InputError: as in `read`.
    """
    return _table(path).label()


def write_labels(path: Path, labels: np.ndarray, target: Path) -> None:
    """Write a copy of a cloud in which the property of the labels is replaced or added.

    Raises:
        InputError: the number of labels differs, a label needs more than 32 bits, or as in `read`.
    """
    data = path.read_bytes()
    header = read_header(data, path)
    vertex = header.vertex
    limits = np.iinfo(np.int32)
    check_labels(labels, vertex.count, (limits.min, limits.max), path)
    kind, dtype = next(
        (kind, dtype)
        for kind, dtype in _LABEL_TYPES
        if np.iinfo(dtype).min <= labels.min() and labels.max() <= np.iinfo(dtype).max
    )
    properties = {item.name: item for item in vertex.properties if not item.is_list}
    place = properties.get(label_name(properties))
    with open(target, "wb") as file:
        file.write(_header_with_label(header, place, kind))
        if header.order is None:
            file.writelines(ply_text.with_labels(data, header, place, labels, path))
        else:
            values = labels.astype(header.order + dtype)
            file.writelines(ply_binary.with_labels(data, header, place, values, path))


def _table(path: Path) -> PointTable:
    with open(path, "rb") as file:
        header = read_header(file.read(MAX_HEADER), path)
        check_not_empty(header.vertex.count, path)
        reader = ply_text if header.order is None else ply_binary
        names = [property.name for property in header.vertex.properties if not property.is_list]
        return PointTable(names, reader.read_columns(file, header, path), path)


def _header_with_label(header: Header, place: Property | None, kind: str) -> bytes:
    lines = list(header.lines)
    if place is None:
        last = header.vertex.properties[-1].line
        lines.insert(last + 1, f"property {kind} label".encode())
    else:
        lines[place.line] = f"property {kind} {place.name}".encode()
    return b"".join(line + header.newline for line in lines)
