"""Check the compressed points of a LAZ file before lazrs reads them.

lazrs believes the sizes in the file. A wrong one could end the process, fill the memory, or take
minutes.
"""

import struct
from pathlib import Path

from sar.errors import InputError

# Kinds of compression: all points in one stream, and each chunk as a group of layers.
_WITHOUT_CHUNKS, _LAYERED = 1, 3
# Positions in the record about the compression.
_CHUNK_SIZE, _NUM_ITEMS, _ITEMS = 12, 32, 34
# Layers of the items of a point, by type: coordinates and flags, colours, infrared, waveforms.
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
_BYTES = 14  # the type of extra bytes, which have one layer each


def check_compression(header: "laspy.LasHeader", data: bytes, path: Path) -> None:  # noqa: F821
    """Check the sizes of points, chunks and layers.

    Args:
        header: the header of the file.
        data: the whole file.
        path: its name, for errors.

    Raises:
        InputError: a size does not fit the rest of the file.
    """
    import lazrs

    record = header.vlrs.get("LasZipVlr")[0].record_data
    try:
        fits = lazrs.LazVlr(record).item_size() == header.point_format.size and _chunks_fit(
            header, record, data
        )
    except struct.error:
        fits = False
    if not fits:
        raise InputError(
            f"The compressed points of the cloud {path} do not fit its header: it is truncated or "
            "damaged. Copy it again from its source."
        )


def _chunks_fit(header: "laspy.LasHeader", record: bytes, data: bytes) -> bool:  # noqa: F821
    (kind,) = struct.unpack_from("<H", record)
    if kind == _WITHOUT_CHUNKS:
        return True
    start = header.offset_to_point_data
    (table,) = struct.unpack_from("<q", data, start)
    if table == -1:  # the position was not known when the points were written
        (table,) = struct.unpack_from("<q", data, len(data) - 8)
    if not start + 8 <= table < len(data):
        return False
    _, chunks = struct.unpack_from("<II", data, table)
    (size,) = struct.unpack_from("<I", record, _CHUNK_SIZE)
    if chunks > len(data) or header.point_count > chunks * size:
        return False
    return kind != _LAYERED or _layers_end(header, record, data, chunks) <= table


def _layers_end(
    header: "laspy.LasHeader",  # noqa: F821
    record: bytes,
    data: bytes,
    chunks: int,
) -> int:
    """Return where the last chunk ends: its first point, a count, and layers with their sizes."""
    (num_items,) = struct.unpack_from("<H", record, _NUM_ITEMS)
    layers = 0
    for index in range(num_items):
        kind, size, _ = struct.unpack_from("<HHH", record, _ITEMS + 6 * index)
        layers += size if kind == _BYTES else _LAYERS.get(kind, 0)
    sizes = struct.Struct(f"<{layers}I")
    position = header.offset_to_point_data + 8
    for _ in range(chunks):
        position += header.point_format.size + 4
        position += sizes.size + sum(sizes.unpack_from(data, position))
    return position
