"""Read and write files of point clouds; the suffix of a file says its format.

Shape shorthands: N: number of points.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import numpy as np

from sar.data.clouds import kitti, las, npz, ply, text
from sar.data.clouds.cloud import Cloud
from sar.errors import InputError
from sar.files.atomic import atomic_path

_FORMATS: dict[str, ModuleType] = {
    suffix: module for module in (ply, las, npz, text, kitti) for suffix in module.SUFFIXES
}
# Suffixes of files that `read_cloud` reads, in lower case.
CLOUD_SUFFIXES = tuple(_FORMATS)


def is_cloud(path: str | os.PathLike) -> bool:
    """Return whether the suffix of a path is that of a cloud, or of KITTI's labels."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in _FORMATS or suffix == kitti.LABEL_SUFFIX


def is_other_text(path: str | os.PathLike) -> bool:
    """Return whether a file has the suffix of clouds in text, but is no cloud, such as README.txt.

    Only the start of the file is read. A damaged or unreadable cloud gives False.
    """
    path = Path(path)
    with suppress(OSError):
        return path.suffix.lower() in text.SUFFIXES and not text.may_hold_points(path)
    return False


def read_cloud(path: str | os.PathLike) -> Cloud:
    """Read a point cloud.

    Args:
        path: a file with one of the CLOUD_SUFFIXES, in upper or lower case.

    Returns:
        The cloud, with the colours, intensities, normals and labels that the file has.

    Raises:
        InputError: the file is missing, empty, truncated, damaged or of another format; or has no
            points; or a number is wrong, such as a NaN coordinate or a label that is not whole.
    """
    path = Path(path)
    with _reading(path):
        return _format_of(path).read(path)


def read_cloud_label(path: str | os.PathLike) -> np.ndarray:
    """Read only the labels of a point cloud.

    Args:
        path: a cloud, as in `read_cloud`; or a file of labels: .label (KITTI), or .npz with the
            array `label`.

    Returns:
        (N,) int64, class ids.

    Raises:
        InputError: as in `read_cloud`, or the cloud has no labels.
    """
    path = Path(path)
    with _reading(path):
        form = kitti if path.suffix.lower() == kitti.LABEL_SUFFIX else _format_of(path)
        label = form.read_label(path)
        if label is None:
            raise InputError(
                f"The cloud {path} has no labels. Expected {form.LABEL_PLACE}: add it, or remove "
                "the cloud from the data set."
            )
        return label


def has_labels(path: str | os.PathLike) -> bool:
    """Return whether a point cloud has labels.

    Raises:
        InputError: as in `read_cloud`, for the parts of the file that hold labels.
    """
    path = Path(path)
    with _reading(path):
        return _format_of(path).read_label(path) is not None


def write_labels(
    cloud_path: str | os.PathLike, labels: np.ndarray, output_path: str | os.PathLike
) -> None:
    """Write the predicted labels of a cloud in the format of the cloud.

    The result is a copy of the cloud whose labels are replaced or added. For a scan of KITTI, it is
    a file .label. The file is written under a temporary name and then renamed.

    Args:
        cloud_path: the cloud, as in `read_cloud`.
        labels: (N,) whole numbers.
        output_path: the new file, with the suffix of the cloud (KITTI: .label).

    Raises:
        InputError: as in `read_cloud`; or the new file would replace the cloud or its labels, or
            has another suffix; or the format cannot store a label.
        OSError: the new file cannot be written.
        ValueError: `labels` has another shape or no whole numbers.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, expected whole numbers (N,)")
    path, output = Path(cloud_path), Path(output_path)
    with _reading(path, writing=True):
        form = _format_of(path)
        _check_output(path, output, form)
        with atomic_path(output, sync=False) as temporary:
            form.write_labels(path, labels, temporary)


def label_file(cloud_path: str | os.PathLike) -> Path | None:
    """Return the file of the labels of a cloud if it is another file, as for KITTI; else None."""
    path = Path(cloud_path)
    return kitti.label_path(path) if path.suffix.lower() in kitti.SUFFIXES else None


def label_suffix(cloud_path: str | os.PathLike) -> str:
    """Return the suffix of the files that `write_labels` writes for a cloud.

    Raises:
        InputError: the suffix of the cloud is unknown.
    """
    path = Path(cloud_path)
    return kitti.LABEL_SUFFIX if _format_of(path) is kitti else path.suffix.lower()


def _format_of(path: Path) -> ModuleType:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise InputError(
            f'The cloud {path} has the unknown suffix "{path.suffix}". Expected one of '
            f"{', '.join(CLOUD_SUFFIXES)}: convert the file."
        ) from None


@contextmanager
def _reading(path: Path, *, writing: bool = False) -> Iterator[None]:
    """Check that a file can be opened, and turn errors of the `with` block into an InputError.

    Args:
        writing: the block also writes a file. Errors of writing (OSError) pass through.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise InputError(
            f"The cloud {path} is a folder, a pipe or a device, not a file: remove or rename it."
        )
    if not os.path.isfile(path):
        raise InputError(f"The cloud {path} is not there: restore it, or correct its path.")
    try:
        with open(path, "rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise InputError(
            f"The cloud {path} cannot be read ({error}): change its rights."
        ) from error
    if is_empty:
        raise InputError(f"The cloud {path} is empty: copy it again from its source.")
    try:
        yield
    except (InputError, MemoryError):
        raise
    # A damaged file can make zipfile or laspy raise nearly any error.
    except Exception as error:
        # A damaged file leads to a seek to an impossible place, which is EINVAL.
        if writing and isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise InputError(
            f"The cloud {path} cannot be read (truncated, damaged, or of another format): "
            f"{str(error)[:200]}. "
            "Copy it again from its source, or remove it from the data set."
        ) from error


def _check_output(path: Path, output: Path, form: ModuleType) -> None:
    suffix = label_suffix(path)
    if output.suffix.lower() != suffix:
        raise InputError(
            f"The labels of the cloud {path} cannot be written to {output}: expected the suffix "
            f'"{suffix}".'
        )
    for source in (path, label_file(path)):
        if source and output.exists() and os.path.samefile(source, output):
            raise InputError(
                f"The labels of the cloud {path} would replace {source}, which was read. "
                "Write them to another file."
            )
