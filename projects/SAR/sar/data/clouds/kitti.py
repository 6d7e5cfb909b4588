"""Read scans in the format of KITTI and SemanticKITTI.

NAME.bin has x, y, z and the remission of each point as float32. NAME.label has one uint32 for each
point: the class id in the lower 16 bits, and the number of the object in the upper 16 bits. It lies
next to the scan, or in the folder `labels` next to the folder `velodyne` of the scan.
"""

from pathlib import Path

import numpy as np

from sar.data.clouds.cloud import Cloud
from sar.data.clouds.values import as_intensity, as_xyz, check_labels
from sar.errors import InputError

SUFFIXES = (".bin",)
LABEL_SUFFIX = ".label"
LABEL_PLACE = "a file .label next to it, or in the folder labels next to its folder velodyne"
# Files of another kind are numbers outside this range, and a file of zeros is damaged. The limits
# apply to the largest coordinate, in metres.
_SMALLEST, _LARGEST = 1e-6, 1e9
_CLASS_BITS = 0xFFFF


def read(path: Path) -> Cloud:
    """Read a scan, and its labels if their file exists.

    Raises:
        InputError: the size is not a multiple of 16 bytes, a number is out of range, or the labels
            do not fit.
    """
    values = np.fromfile(path, "<f4", 4 * _num_points(path)).reshape(-1, 4)
    xyz = as_xyz(values.T[:3], path)
    largest = np.abs(xyz).max()
    if not _SMALLEST < largest < _LARGEST:
        raise InputError(
            f"The cloud {path} is not a scan of KITTI, or it is damaged: its largest coordinate is "
            f"{largest:g} m. Expected x, y, z and remission of each point as float32."
        )
    return Cloud(xyz, intensity=as_intensity(values[:, 3], path), label=read_label(path))


def read_label(path: Path) -> np.ndarray | None:
    """Read the labels of a scan, or a file of labels.

    Args:
        path: NAME.bin or NAME.label.

    Returns:
        (N,) int64; None if the scan has no file of labels.

    Raises:
        InputError: the size of the file of labels is wrong.
    """
    is_scan = path.suffix.lower() != LABEL_SUFFIX
    source = label_path(path) if is_scan else path
    if source is None:
        return None
    size = source.stat().st_size
    if size == 0 or size % 4:
        raise InputError(
            f"The label file {source} has {size} bytes. Expected 4 bytes for each point: "
            "copy it again from its source."
        )
    if is_scan and size // 4 != (points := _num_points(path)):
        raise InputError(
            f"The label file {source} has {size // 4} labels, but the cloud {path} has {points} "
            "points. Copy both again from their source."
        )
    return (np.fromfile(source, "<u4") & _CLASS_BITS).astype(np.int64)


def label_path(path: Path) -> Path | None:
    """Return the file of labels of a scan; None if there is none."""
    candidates = [path.with_suffix(LABEL_SUFFIX)]
    if path.parent.name == "velodyne":
        candidates.append(path.parent.parent / "labels" / f"{path.stem}{LABEL_SUFFIX}")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def write_labels(path: Path, labels: np.ndarray, target: Path) -> None:
    """Write the labels of a scan as NAME.label.

    Raises:
        InputError: the number of labels differs, or a label is not between 0 and 65535.
    """
    check_labels(labels, _num_points(path), (0, _CLASS_BITS), path)
    labels.astype("<u4").tofile(target)


def _num_points(path: Path) -> int:
    size = path.stat().st_size
    if size % 16:
        raise InputError(
            f"The cloud {path} has {size} bytes, which is not a multiple of 16: it is truncated, "
            "or not a scan of KITTI. Expected x, y, z and remission of each point as float32."
        )
    return size // 16
