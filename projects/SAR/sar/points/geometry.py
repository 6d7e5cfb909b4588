"""Bounds, rotations and linear maps of points. This module needs only NumPy.

Shape shorthands: N points, C columns.
"""

import numpy as np


def bounds(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the greatest value of each column of (N, C)."""
    # Column by column: several times faster than `min(axis=0)`.
    return (
        np.array([column.min() for column in rows.T]),
        np.array([column.max() for column in rows.T]),
    )


def floor_center(xyz: np.ndarray) -> np.ndarray:
    """Return the middle (3,) of the bounding box of (N, 3) in x and y, and its lowest z."""
    low, high = bounds(xyz)
    return np.array([*(low[:2] + high[:2]) / 2, low[2]])


def rotation_about(axis: int, angle: float) -> np.ndarray:
    """Return the matrix (3, 3) that rotates about an axis, counterclockwise, seen from its tip."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[j, i] = np.sin(angle)
    matrix[i, j] = -matrix[j, i]
    return matrix


def transform(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the products of a matrix (3, 3) with vectors (N, 3)."""
    # Not `@`: how BLAS rounds depends on the number of threads.
    return np.einsum("nj,ij->ni", vectors, matrix)
