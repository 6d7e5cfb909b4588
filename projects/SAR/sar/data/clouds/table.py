"""Recognize the columns of a cloud by their names."""

import os
from collections.abc import Callable, Iterable

import numpy as np

from sar.data.clouds.cloud import Cloud
from sar.data.clouds.values import as_color, as_intensity, as_label, as_normal, as_xyz
from sar.errors import InputError, listed

# Names in lower case, and without CloudCompare's prefix "scalar_". Earlier names win.
_XYZ = (("x", "y", "z"),)
_COLOR = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("rf", "gf", "bf"),
)
_NORMAL = (
    ("nx", "ny", "nz"),
    ("normal_x", "normal_y", "normal_z"),
    ("normalx", "normaly", "normalz"),
)
_INTENSITY = ("intensity", "reflectance", "remission")
_LABEL = (
    "label", "labels", "label_id", "class", "classes", "class_id", "classification", "category",
    "semantic", "semantics",
)  # fmt: skip


class PointTable:
    """Columns of numbers, one value per point, whose names say what they mean.

    Args:
        names: the names of the columns, as the file spells them.
        column: returns the column of a name: (N,) numbers.
        path: the file, for errors.
    """

    def __init__(
        self, names: Iterable[str], column: Callable[[str], np.ndarray], path: str | os.PathLike
    ) -> None:
        self._names = _by_plain_name(names)
        self._column = column
        self._path = path

    def label(self) -> np.ndarray | None:
        """Return the labels, (N,) int64; None if there are none.

        Raises:
            InputError: as in `as_label`.
        """
        name = _first(_LABEL, self._names)
        return None if name is None else as_label(self._column(name), self._path)

    def cloud(self) -> Cloud:
        """Return the cloud.

        Raises:
            InputError: x, y or z is missing, only a part of red, green and blue or of the normal is
                there, or a value is wrong.
        """
        xyz = self._triple(_XYZ)
        if xyz is None:
            raise InputError(
                f"The cloud {self._path} has no coordinates x, y and z. Its columns are "
                f"{listed(list(self._names.values()), 12) or 'without names'}. Rename them."
            )
        color, normal = self._triple(_COLOR), self._triple(_NORMAL)
        intensity = _first(_INTENSITY, self._names)
        path = self._path
        return Cloud(
            as_xyz(xyz, path),
            color=None if color is None else as_color(color, path),
            intensity=None if intensity is None else as_intensity(self._column(intensity), path),
            normal=None if normal is None else as_normal(normal, path),
            label=self.label(),
        )

    def _triple(self, alternatives: tuple[tuple[str, str, str], ...]) -> list[np.ndarray] | None:
        for names in alternatives:
            if all(name in self._names for name in names):
                return [self._column(self._names[name]) for name in names]
        first = alternatives[0]
        found = [name for name in first if name in self._names]
        if found:
            missing = [name for name in first if name not in self._names]
            raise InputError(
                f"The cloud {self._path} has the columns {', '.join(found)} without "
                f"{', '.join(missing)}. Add the missing columns, or rename the others."
            )
        return None


def label_name(names: Iterable[str]) -> str | None:
    """Return the name of the column of labels, as the file spells it; None if there is none."""
    return _first(_LABEL, _by_plain_name(names))


def _by_plain_name(names: Iterable[str]) -> dict[str, str]:
    """Return names by their form in lower case: "class_id" for "scalar_Class ID"."""
    result: dict[str, str] = {}
    for name in names:
        plain = name.strip().lower().replace(" ", "_").removeprefix("scalar_")
        result.setdefault(plain, name)
    return result


def _first(candidates: tuple[str, ...], names: dict[str, str]) -> str | None:
    return next((names[name] for name in candidates if name in names), None)
