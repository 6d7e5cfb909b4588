"""Turn the numbers of a file into the arrays of a cloud.

Shape shorthands: N: number of points.
"""

import os
from collections.abc import Sequence

import numpy as np

from sar.errors import InputError

# Colours as floating-point numbers may exceed 1 a little, after an interpolation.
_WHITE = 1.01
# Largest whole number up to which float64 represents all whole numbers.
_EXACT = 2**53


def as_xyz(columns: Sequence[np.ndarray], path: str | os.PathLike) -> np.ndarray:
    """Return coordinates as (N, 3) float64.

    Args:
        columns: three arrays (N,) of numbers.
        path: the file, for errors.

    Raises:
        InputError: the cloud is empty, or a coordinate is NaN or infinite.
    """
    check_not_empty(len(columns[0]), path)
    return _finite(_stacked(columns, np.float64), "coordinates", path)


def as_color(columns: Sequence[np.ndarray], path: str | os.PathLike) -> np.ndarray:
    """Return colours as (N, 3) float32 from 0 to 1.

    White is 1, 255 or 65535. The largest value of the file decides which of them: whole numbers up
    to 255 have 8 bits, even if their type has 16, because many programs write them so.

    Args:
        columns: red, green and blue, three arrays (N,) of numbers.
        path: the file, for errors.

    Raises:
        InputError: a value is negative, above 65535 or NaN.
    """
    low = min(column.min() for column in columns)
    high = max(column.max() for column in columns)
    if not (low >= 0 and high <= 65535):  # so that NaN is refused
        raise InputError(
            f"The colours of the cloud {path} range from {low:g} to {high:g}. Expected 0 to 1, "
            "0 to 255, or 0 to 65535. Correct the file, or give the columns their right names."
        )
    color = _stacked(columns, np.float32)
    if columns[0].dtype.kind == "f" and high <= _WHITE:
        return np.minimum(color, 1, out=color)
    color /= 255 if high <= 255 else 65535
    return color


def as_normal(columns: Sequence[np.ndarray], path: str | os.PathLike) -> np.ndarray:
    """Return normals as (N, 3) float32. Whole numbers are divided by the largest of their type.

    Raises:
        InputError: a value is NaN or infinite.
    """
    normal = _stacked(columns, np.float32)
    if columns[0].dtype.kind == "i":
        normal /= np.iinfo(columns[0].dtype).max
    return _finite(normal, "normals", path)


def as_intensity(column: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    """Return intensities as (N,) float32.

    Whole numbers of 8 or 16 bits are divided by 255 or 65535. Other numbers stay as they are: their
    largest value differs from file to file, so it cannot scale all files of a scanner equally.

    Args:
        column: (N,) numbers.
        path: the file, for errors.

    Raises:
        InputError: a value is NaN or infinite.
    """
    intensity = _finite(_stacked([column], np.float32)[:, 0], "intensity", path)
    if column.dtype.kind in "iu" and column.dtype.itemsize <= 2:
        intensity /= 255 if column.dtype.itemsize == 1 else 65535
    return intensity


def as_label(column: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    """Return class ids as (N,) int64.

    Args:
        column: (N,) whole numbers, of any type.
        path: the file, for errors.

    Raises:
        InputError: a value is not a whole number, or too large.
    """
    if column.dtype.kind == "f":
        is_id = (np.rint(column) == column) & (np.abs(column) <= _EXACT)
    else:
        is_id = column <= np.iinfo(np.int64).max
    if not is_id.all():
        point = int(np.argmin(is_id))
        raise InputError(
            f"The label of point {point} (counted from 0) of the cloud {path} is {column[point]}. "
            "Expected whole numbers: write the ids of the classes."
        )
    return column.astype(np.int64)


def check_not_empty(points: int, path: str | os.PathLike) -> None:
    """Raise InputError if the number of points of a cloud is 0."""
    if points == 0:
        raise InputError(f"The cloud {path} has no points: remove it from the data set.")


def check_labels(
    labels: np.ndarray, points: int, limits: tuple[int, int], path: str | os.PathLike
) -> None:
    """Check labels before they are written to a copy of a cloud.

    Args:
        labels: (N,) whole numbers.
        points: the number of points of the cloud.
        limits: the smallest and the largest number that the format can store.
        path: the cloud, for errors.

    Raises:
        InputError: the cloud has no points, the number of labels differs, or a label is outside
            of the limits.
    """
    check_not_empty(points, path)
    if len(labels) != points:
        raise InputError(
            f"There are {len(labels)} labels for the {points} points of the cloud {path}. "
            "If the file has changed, predict it again."
        )
    lowest, highest = limits
    if labels.min() < lowest or labels.max() > highest:
        raise InputError(
            f"The labels for the cloud {path} range from {labels.min()} to {labels.max()}, but its "
            f"format stores {lowest} to {highest}: convert the cloud to another format."
        )


def _stacked(columns: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    stacked = np.empty((len(columns[0]), len(columns)), dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # such values are refused later
        for index, column in enumerate(columns):
            stacked[:, index] = column
    return stacked


def _finite(values: np.ndarray, what: str, path: str | os.PathLike) -> np.ndarray:
    is_finite = np.isfinite(values)
    if not is_finite.all():
        point = int(np.argmin(is_finite.reshape(len(values), -1).all(axis=1)))
        raise InputError(
            f"The {what} of point {point} (counted from 0) of the cloud {path} are "
            f"{values[point].tolist()}. Expected finite numbers: correct or remove the point."
        )
    return values
