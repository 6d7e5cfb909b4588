"""Read clouds in LAS and LAZ files with laspy (the extra `points` of this project).

The label is an extra dimension such as `label` or `class` if the file has one, and the
classification otherwise. `sar.data.clouds.table` knows the names. A classification of 0 at all
points means that the points were never classified, so the file has no label.
"""

import io
import logging
import struct
from pathlib import Path
from types import ModuleType

import numpy as np

from sar.data.clouds.cloud import Cloud
from sar.data.clouds.laz_check import check_compression
from sar.data.clouds.table import PointTable, label_name
from sar.data.clouds.values import check_labels, check_not_empty
from sar.errors import InputError

SUFFIXES = (".las", ".laz")
LABEL_PLACE = "an extra dimension label, or a classification that is not 0 at all points"
_CHUNK = 2**26  # bytes that are decompressed at once
_SILENT = logging.NullHandler()
# Positions in the header of LAS.
_MINOR_VERSION, _LAYOUT, _LAYOUT_OF_4 = 25, 96, 235
_MIN_HEADER, _HEADER_OF_4 = 227, 375
_COMPRESSED = 128  # added to the point format
_SIZE_OF_VLR, _SIZE_OF_EVLR = 54, 60  # without their content


def read(path: Path) -> Cloud:
    """Read a cloud.

    Raises:
        InputError: laspy is not installed, the file does not fit its header, or as in
            `PointTable.cloud`.
    """
    return _table(_load(path), path).cloud()


def read_label(path: Path) -> np.ndarray | None:
    """Read the labels of a cloud as (N,) int64; None if there are none.

    Raises:
        InputError: as in `read`.
    """
    return _table(_load(path), path).label()


def write_labels(path: Path, labels: np.ndarray, target: Path) -> None:
    """Write a copy of a cloud with other labels.

    They replace the labels that `read` finds, or the classification, if they fit there. The
    classification holds labels up to 31 in the point formats 0 to 5, and up to 255 in the others.
    It cannot hold labels that are all 0. If the labels do not fit, they get an extra dimension of
    16 bits: the one that had the labels, or `label`.

    Raises:
        InputError: the number of labels differs, a label needs more than 16 bits, or as in `read`.
    """
    laspy = _import_laspy(path)
    cloud = _load(path)
    check_labels(labels, len(cloud.points), (0, 65535), path)
    name = label_name(_names(cloud)) or "classification"
    dimension = cloud.point_format.dimension_by_name(name)
    looks_unlabelled = name == "classification" and not labels.any()
    if labels.max() > dimension.max or dimension.is_scaled or looks_unlabelled:
        if name == "classification":
            name = "label"
        else:
            cloud.remove_extra_dim(name)
        cloud.add_extra_dim(laspy.ExtraBytesParams(name, np.uint16))
    cloud[name] = labels
    with open(target, "wb+") as file:
        cloud.write(file, do_compress=path.suffix.lower() == ".laz", laz_backend=_backend(laspy))


def _import_laspy(path: Path) -> ModuleType:
    try:
        import laspy
        import lazrs  # noqa: F401  laspy needs it for LAZ
    except ImportError as error:
        raise InputError(
            f"The cloud {path} needs laspy and lazrs ({error}): pip install -e .[points]"
        ) from error
    logging.getLogger("laspy").addHandler(_SILENT)  # errors are raised, too
    return laspy


def _backend(laspy: ModuleType) -> object:
    # The parallel one reserves as much memory as the file says, and training has processes already.
    return laspy.LazBackend.Lazrs


def _load(path: Path) -> "laspy.LasData":  # noqa: F821
    """Read all points.

    Raises:
        InputError: laspy is not installed, or the file does not fit its header.
    """
    laspy = _import_laspy(path)
    data = path.read_bytes()
    _check_header(data, path)
    with laspy.open(io.BytesIO(data), laz_backend=_backend(laspy)) as reader:
        header = reader.header
        check_not_empty(header.point_count, path)
        if header.are_points_compressed:
            check_compression(header, data, path)
        step = max(1, _CHUNK // header.point_format.size)
        chunks = [chunk.array for chunk in reader.chunk_iterator(step)]
    array = np.concatenate(chunks)
    if len(array) != header.point_count:
        raise InputError(
            f"The cloud {path} has {len(array)} points, but its header promises "
            f"{header.point_count}: it is truncated or damaged. Copy it again from its source."
        )
    points = laspy.ScaleAwarePointRecord(
        array, header.point_format, scales=header.scales, offsets=header.offsets
    )
    return laspy.LasData(header, points)


def _table(cloud: "laspy.LasData", path: Path) -> PointTable:  # noqa: F821
    return PointTable(_names(cloud), lambda name: np.array(cloud[name]), path)


def _names(cloud: "laspy.LasData") -> list[str]:  # noqa: F821
    """Return the names of the dimensions, without a classification that classifies no point."""
    # The dimensions X, Y and Z are whole numbers, before scale and offset.
    without = {"X", "Y", "Z"}
    if not np.any(cloud.classification):  # 0 is "created, never classified"
        without.add("classification")
    names = cloud.point_format.dimension_names
    return ["x", "y", "z", *(name for name in names if name not in without)]


def _check_header(data: bytes, path: Path) -> None:
    """Check the numbers that laspy believes: of records in front of the points, and of points.

    Raises:
        InputError: a number does not fit the size of the file, or the file is not LAS.
    """
    if not data.startswith(b"LASF"):
        raise InputError(
            f"The cloud {path} is not a LAS or LAZ file, because it does not start with `LASF`: "
            "give it the suffix of its format, or copy it again from its source."
        )
    fits = len(data) >= _MIN_HEADER
    if fits:
        start, vlrs, kind, size, points = struct.unpack_from("<IIBHI", data, _LAYOUT)
        fits = start <= len(data) and vlrs * _SIZE_OF_VLR <= start
    if fits and data[_MINOR_VERSION] >= 4:
        fits = len(data) >= _HEADER_OF_4
        if fits:
            evlr_start, evlrs, points = struct.unpack_from("<QIQ", data, _LAYOUT_OF_4)
            fits = evlrs == 0 or evlr_start + evlrs * _SIZE_OF_EVLR <= len(data)
    if fits and kind < _COMPRESSED:
        fits = start + points * size <= len(data)
    if not fits:
        raise InputError(
            f"The cloud {path} has {len(data)} bytes, less than its header promises: it is "
            "truncated or damaged. Copy it again from its source."
        )
