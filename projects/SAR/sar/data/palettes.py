"""Palettes of label files: do they agree on what an id stands for?

The ids of an indexed PNG are the indices of its palette. Tools that draw masks often write a
palette with the colour of each class, and some number the classes of each file on their own. Then
the palettes show that an id is not the same class in all files.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from sar.data.datasets.folder import default_color
from sar.errors import listed

Color = tuple[int, int, int]


def meaningful_colors(palette: np.ndarray, ids: Iterable[int]) -> dict[int, Color]:
    """Return the colours of a label's ids, if its palette can tell classes apart.

    Palettes that applications write by default depend on the number of the id alone and say
    nothing about classes: ramps of grey, PASCAL VOC's colours, one colour for all ids.

    Args:
        palette: (N, 3) uint8, the colours of the ids 0 to N - 1.
        ids: the ids of classes that the label has, in ascending order.

    Returns:
        the colour (r, g, b) of each id; {} for a palette without meaning.
    """
    colors = {i: tuple(palette[i].tolist()) for i in ids if i < len(palette)}
    values = list(colors.values())
    is_one_color = len(set(values)) <= 1 < len(values)
    is_grey_ramp = all(r == g == b for r, g, b in values) and values == sorted(set(values))
    # With black for the id 0, as in VOC's files, or without.
    is_vocs = any(
        all(color == tuple(default_color(i - shift)) for i, color in colors.items())
        for shift in (0, 1)
    )
    return {} if is_one_color or is_grey_ramp or is_vocs else colors


class PaletteComparison:
    """Compares the palettes of a data set's label files, file by file.

    Args:
        class_names: K names.
        class_colors: K colours of the data set. Those that equal `default_color` are taken for not
            given, and not compared.
    """

    def __init__(self, class_names: Sequence[str], class_colors: Sequence[Sequence[int]]) -> None:
        self._class_names = class_names
        self._given = {
            i: tuple(color)
            for i, color in enumerate(class_colors)
            if list(color) != default_color(i)
        }
        self._files: dict[int, dict[Color, str]] = {}  # by id and colour, the first file

    def add(self, file: str, colors: dict[int, Color]) -> None:
        """Add the `meaningful_colors` of a label file."""
        for i, color in colors.items():
            self._files.setdefault(i, {}).setdefault(color, file)

    def warnings(self) -> list[str]:
        """Return a sentence about palettes that disagree, and one about the colours of classes."""
        warnings = []
        differing = sorted(i for i, files in self._files.items() if len(files) > 1)
        if differing:
            (color, file), (other_color, other_file), *_ = self._files[differing[0]].items()
            warnings.append(
                f"The palettes of label files disagree about {_ids(differing)}: "
                f"{self._named(differing[0])} is {_hex(color)} in {file} and {_hex(other_color)} "
                f"in {other_file}, so an id may not be the same class in all files; if so, "
                "write them again with one numbering."
            )
        contradicting = [
            (i, color, file)
            for i, files in sorted(self._files.items())
            for color, file in files.items()
            if color != self._given.get(i, color)
        ]
        if contradicting:
            i, color, file = contradicting[0]
            ids = sorted({i for i, _, _ in contradicting})
            warnings.append(
                f"The palettes of label files contradict the colours of classes.txt (or the "
                f"metadata's stuff_colors) about {_ids(ids)}: {self._named(i)} is {_hex(color)} in "
                f"{file}, but {_hex(self._given[i])} there; correct the order of the classes or "
                "the colours."
            )
        return warnings

    def _named(self, class_id: int) -> str:
        return f'{class_id} ("{self._class_names[class_id]}")'


def _ids(ids: Sequence[int]) -> str:
    return f"the {'id' if len(ids) == 1 else 'ids'} {listed(ids)}"


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
