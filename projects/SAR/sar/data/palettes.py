"""Warn if the palettes of label files disagree about the class of an id.

The ids of an indexed PNG are the indices of its palette. Annotation tools often write a palette
with the colour of each class. Some number the classes of each file separately. Then the palettes
show that an id is not the same class in all files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sar.cli import call_of
from sar.data.datasets.folder import default_color
from sar.errors import listed

from detectron2.data import Metadata

Color = tuple[int, int, int]


@dataclass(frozen=True)
class IdColors:
    """Colours that the palette of a label file gives to the ids in the file.

    Attributes:
        colors: the colour (r, g, b) of each class id in the label; empty if all are equal.
        is_default: the palette is one that programs write by default (a grey ramp, PASCAL VOC's
            colours), so its colours depend only on the number of the id.
    """

    colors: dict[int, Color]
    is_default: bool

    @classmethod
    def of(cls, palette: np.ndarray, ids: Iterable[int]) -> "IdColors":
        """Select the colours of class ids (ascending) from a palette, (N, 3) uint8."""
        colors = {i: tuple(palette[i].tolist()) for i in ids if i < len(palette)}
        values = list(colors.values())
        if len(set(values)) <= 1 < len(values):
            colors = {}
        is_grey_ramp = all(map(_is_grey, values)) and values == sorted(set(values))
        # With black for the id 0, as in VOC's files, or without it.
        is_vocs = any(
            all(color == tuple(default_color(i - shift)) for i, color in colors.items())
            for shift in (0, 1)
        )
        return cls(colors, is_grey_ramp or is_vocs)


def given_colors(metadata: Metadata) -> dict[int, Color]:
    """Return the colours that the data set's author chose for classes, by id.

    A colour that equals `default_color` counts as chosen only if it is in the metadata's
    `given_colors`, which a DATASETS.FOLDER has.
    """
    given = metadata.get("given_colors")
    if given is None:
        colors = enumerate(metadata.get("stuff_colors") or ())
        given = {i: color for i, color in colors if list(color) != default_color(i)}
    return {i: tuple(color) for i, color in given.items()}


class PaletteComparison:
    """Compare the palettes of label files with each other and with the colours of the classes.

    The files may belong to several data sets with the same classes. A default palette tells nothing
    about the classes, unless it gives the colours of other palettes or classes to other ids.

    Args:
        class_names: K names.
        class_colors: the colours of classes, by id, as `given_colors` returns them.
    """

    def __init__(self, class_names: Sequence[str], class_colors: Mapping[int, Color]) -> None:
        self._class_names = class_names
        self._given = class_colors
        # The first file for each id and colour, and for each default palette.
        self._files: dict[int, dict[Color, str]] = {}
        self._default: dict[tuple[tuple[int, Color], ...], str] = {}
        self._told: set[tuple[str, int]] = set()

    def add(self, file: str, palette: IdColors) -> None:
        """Add a label file."""
        if palette.is_default:
            self._default.setdefault(tuple(palette.colors.items()), file)
            return
        for i, color in palette.colors.items():
            self._files.setdefault(i, {}).setdefault(color, file)

    def warnings(self) -> list[str]:
        """Return new findings since the last call.

        Returns:
            A sentence about palettes that disagree, and one about the colours of classes.
        """
        found = (
            self._between_files() or self._between_defaults_and_files(),
            self._with_given_colors(),
        )
        return [warning for warning in found if warning]

    def _between_files(self) -> str:
        differing = [i for i, files in self._files.items() if len(files) > 1]
        if not (ids := self._new("files", differing)):
            return ""
        (color, file), (other_color, other_file), *_ = self._files[ids[0]].items()
        return self._disagreement(
            ids,
            f"{self._named(ids[0])} is {_hex(color)} in {file} and {_hex(other_color)} in "
            f"{other_file}",
        )

    def _between_defaults_and_files(self) -> str:
        owners: dict[Color, dict[int, str]] = {}
        for i, files in self._files.items():
            for color, file in files.items():
                owners.setdefault(color, {})[i] = file
        moved = {i: (color, file) for i, color, file in self._moved(owners)}
        if not (ids := self._new("files", moved)):
            return ""
        color, file = moved[ids[0]]
        other_id, other_file = next(iter(owners[color].items()))
        return self._disagreement(
            ids,
            f"{_hex(color)} is {self._named(ids[0])} in {file} and {self._named(other_id)} in "
            f"{other_file}",
        )

    def _with_given_colors(self) -> str:
        owners: dict[Color, dict[int, str]] = {}
        for i, color in self._given.items():
            owners.setdefault(color, {})[i] = ""
        contradicting = {
            i: (color, file)
            for i, files in self._files.items()
            for color, file in files.items()
            if color != self._given.get(i, color)
        }
        for i, color, file in self._moved(owners):
            if i in self._given:
                contradicting.setdefault(i, (color, file))
        if not (ids := self._new("classes", contradicting)):
            return ""
        color, file = contradicting[ids[0]]
        return (
            f"The palettes of label files contradict the colours of classes.txt (or the "
            f"metadata's stuff_colors) about {_ids(ids)}: {self._named(ids[0])} is {_hex(color)} "
            f"in {file}, but {_hex(self._given[ids[0]])} there: correct the order of the classes "
            "or the colours."
        )

    def _moved(self, owners: Mapping[Color, Mapping[int, str]]) -> Iterator[tuple[int, Color, str]]:
        """Yield the ids of default palettes whose colour belongs to other ids.

        Args:
            owners: the ids of each colour in other palettes or in the classes.
        """
        for items, file in self._default.items():
            if not all(color in owners for _, color in items):
                continue
            moved = [(i, color) for i, color in items if i not in owners[color]]
            # One grey colour alone, such as black, is in most palettes.
            if len(moved) > 1 or not all(_is_grey(color) for _, color in moved):
                yield from ((i, color, file) for i, color in moved)

    def _disagreement(self, ids: Sequence[int], example: str) -> str:
        return (
            f"The palettes of label files disagree about {_ids(ids)}: {example}. An id may not be "
            "the same class in all files; if so, write the colours into classes.txt and run: "
            f"{call_of('tools/import_dataset.py')} FOLDER --output NEW"
        )

    def _new(self, kind: str, ids: Iterable[int]) -> list[int]:
        """Return the ids (ascending) that no earlier call returned, and remember them."""
        new = sorted(i for i in ids if (kind, i) not in self._told)
        self._told |= {(kind, i) for i in new}
        return new

    def _named(self, class_id: int) -> str:
        return f'{class_id} ("{self._class_names[class_id]}")'


def _ids(ids: Sequence[int]) -> str:
    return f"the {'id' if len(ids) == 1 else 'ids'} {listed(ids)}"


def _is_grey(color: Color) -> bool:
    return len(set(color)) == 1


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
