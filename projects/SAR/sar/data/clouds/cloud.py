"""A point cloud in memory.

Shape shorthands: N: number of points.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with their colours, normals and labels.

    Coordinates have double precision, because single precision resolves map coordinates such as
    5,000,000 m only to half a metre.

    Attributes:
        xyz: (N, 3) float64, coordinates in the unit of the file, usually metres.
        color: (N, 3) float32, red, green and blue from 0 to 1; or None.
        intensity: (N,) float32, strength of the laser's echo; or None.
        normal: (N, 3) float32, direction of the surface; or None.
        label: (N,) int64, class ids; or None.

    Raises:
        ValueError: an array has another shape or type.
    """

    xyz: np.ndarray
    color: np.ndarray | None = None
    intensity: np.ndarray | None = None
    normal: np.ndarray | None = None
    label: np.ndarray | None = None

    def __post_init__(self) -> None:
        points = len(self.xyz)
        for name, shape, dtype in (
            ("xyz", (points, 3), np.float64),
            ("color", (points, 3), np.float32),
            ("intensity", (points,), np.float32),
            ("normal", (points, 3), np.float32),
            ("label", (points,), np.int64),
        ):
            values = getattr(self, name)
            if values is not None and (values.shape != shape or values.dtype != dtype):
                raise ValueError(
                    f"{name} has the shape {values.shape} and the type {values.dtype}, "
                    f"expected {shape} and {np.dtype(dtype)}"
                )

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.xyz)
