"""Decide which class of the new data set each class of a source becomes.

Shape shorthands: H, W: height and width in pixels; K: number of classes of the source.
"""

import re
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sar.data.datasets.class_file import read_class_file
from sar.data.datasets.folder import ignore_label_for
from sar.data.importers.source import IGNORED, UNLABELLED, Color, Source, SourceClass
from sar.errors import InputError, listed, nearest

BACKGROUND = "background"
# Names of the class of pixels without a class, in several tools.
_BACKGROUND_NAMES = {BACKGROUND, "_background_", "__background__"}
_IGNORE_NAMES = {"__ignore__"}  # labelme's


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The classes of the new data set, and the id of each class of the source.

    Attributes:
        names: the names in the order of the ids.
        colors: their colours, or None for a class without one.
        ignore_label: 255, or 65535 for more than 255 classes.
        ids: (K + 2,) uint8 or uint16. Entry k is the new id of class k of the source. UNLABELLED
            and IGNORED index the last two entries.
    """

    names: Sequence[str]
    colors: Sequence[Color | None]
    ignore_label: int
    ids: np.ndarray

    def new_ids(self, classes: np.ndarray) -> np.ndarray:
        """Return (H, W) ids of the new data set for a `Drawing.classes`."""
        return self.ids[classes]

    def text(self) -> str:
        """Return the content of classes.txt."""
        lines = []
        for name, color in zip(self.names, self.colors, strict=True):
            lines.append(name if color is None else f"{name} {' '.join(map(str, color))}")
        return "\n".join(lines) + "\n"


def map_classes(
    source: Source,
    *,
    classes: Path | None,
    renamed: Sequence[tuple[str, str]],
    ignored: Sequence[str],
    background: str,
    has_unlabelled: bool,
) -> ClassMap:
    """Return the classes of the new data set.

    Args:
        source: the classes of the source.
        classes: a class file. It orders the classes; classes that it does not name are ignored.
        renamed: old and new names. An old name may also be an id or a colour of the source. Two
            classes with the same new name are merged.
        ignored: names, ids or colours of classes whose pixels are ignored.
        background: "class": pixels without a class become the class "background". "ignore": they
            are ignored, and so is a class of that name.
        has_unlabelled: there are pixels without a class.

    Raises:
        InputError: an unknown class is renamed or ignored, both are asked for one class, no class
            remains, or a name cannot be written to classes.txt.
    """
    wanted = None if classes is None else [name for name, _ in read_class_file(classes)]
    new_names: list[str | None] = [_clean(found.name) for found in source.classes]
    chosen: set[int] = set()
    for old, new in renamed:
        for index in _find(source.classes, old, "--map"):
            new_names[index] = _clean(new)
            chosen.add(index)
    for token in ignored:
        for index in _find(source.classes, token, "--ignore"):
            if index in chosen:
                raise InputError(
                    f'"{token}" is in --ignore and in --map: remove it from one of the two.'
                )
            new_names[index] = None
    for index, name in enumerate(new_names):
        if name is None or name.lower() in _IGNORE_NAMES:
            new_names[index] = None
        elif name.lower() in _BACKGROUND_NAMES:
            new_names[index] = None if background == "ignore" else BACKGROUND
        elif wanted is not None and index not in chosen:
            if _clean(source.classes[index].name) not in wanted:
                new_names[index] = None

    if "" in new_names:
        nameless = source.classes[new_names.index("")]
        number = "" if nameless.id is None else f" (number {nameless.id})"
        raise InputError(f"A class{number} has no name: give it one in the annotation tool.")
    names: list[str] = []
    if has_unlabelled and background == "class" and BACKGROUND not in new_names:
        names.append(BACKGROUND)
    names += dict.fromkeys(name for index in _order(source, wanted) if (name := new_names[index]))
    if not names:
        raise InputError("No class remains: all are ignored. Correct --ignore, or --classes.")
    ignore_label = ignore_label_for(len(names))
    ids = [ignore_label if name is None else names.index(name) for name in new_names]
    unlabelled = names.index(BACKGROUND) if BACKGROUND in names else ignore_label
    ids += [ignore_label, unlabelled]  # IGNORED is -2, UNLABELLED is -1
    assert (IGNORED, UNLABELLED) == (-2, -1)
    result = ClassMap(
        names=names,
        colors=_colors(source.classes, new_names, names),
        ignore_label=ignore_label,
        ids=np.array(ids, np.uint8 if ignore_label == 255 else np.uint16),
    )
    _check_text(result)
    return result


def parse_color(word: str) -> Color | None:
    """Return the colour that a word such as "255,0,0" stands for, or None."""
    match = re.fullmatch(r"(\d{1,3}),(\d{1,3}),(\d{1,3})", word, re.ASCII)
    color = tuple(map(int, match.groups())) if match else ()
    return color if color and max(color) <= 255 else None


def _find(classes: Sequence[SourceClass], token: str, option: str) -> list[int]:
    """Return the indices of the classes that a word on the command line names."""
    cleaned, color = _clean(token), parse_color(token)
    found = [i for i, known in enumerate(classes) if _clean(known.name) == cleaned]
    if not found and token.isdecimal():
        found = [i for i, known in enumerate(classes) if known.id == int(token)]
    if not found and color:
        found = [i for i, known in enumerate(classes) if known.color == color]
    if not found:
        names = [known.name for known in classes]
        raise InputError(
            f'{option} names the class "{token}", which the source does not have. Its classes are '
            f"{listed(names, 10)}.{nearest(token, names)}"
        )
    return found


def _order(source: Source, wanted: Sequence[str] | None) -> list[int]:
    """Return the indices of the source's classes in the order of the class file."""
    indices = range(len(source.classes))
    if wanted is None:
        return list(indices)
    place = {name: i for i, name in enumerate(wanted)}
    return sorted(indices, key=lambda i: place.get(_clean(source.classes[i].name), len(place)))


def _colors(
    classes: Sequence[SourceClass], new_names: Sequence[str | None], names: Sequence[str]
) -> list[Color | None]:
    """Return the colour of the first class of the source that has the new name and a colour.

    The background is black by default. If not all classes have colours that differ, none has one.
    """
    colors: dict[str, Color] = {}
    for known, name in zip(classes, new_names, strict=True):
        if name is not None and known.color is not None:
            colors.setdefault(name, tuple(known.color))
    if BACKGROUND in names:
        colors.setdefault(BACKGROUND, (0, 0, 0))
    if len(set(colors.values())) < len(names):
        return [None] * len(names)
    return [colors[name] for name in names]


def _check_text(classes: ClassMap) -> None:
    """Raise InputError if classes.txt would be read with other names."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "classes.txt")
        path.write_text(classes.text(), encoding="utf-8")
        problem = ""
        try:
            read = [name for name, _ in read_class_file(path)]
        except InputError as error:
            read, problem = [], str(error).replace(f"{path}", "classes.txt")
    if read != list(classes.names):
        raise InputError(
            "The names of the classes cannot be written to classes.txt: they would be read in "
            f"another way. {problem or listed(classes.names, 20)} Rename them with "
            '--map "OLD=NEW".'
        )


def _clean(name: str) -> str:
    """Return a name without extra blanks, in Unicode's composed form, NFC."""
    return " ".join(unicodedata.normalize("NFC", name).split())
