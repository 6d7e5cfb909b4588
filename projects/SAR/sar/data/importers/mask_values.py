"""Read masks whose values are class ids or the colours of classes.

A mask with one channel has ids. A mask with a palette, or with equal red, green and blue channels,
may have ids or colours. One rule must hold for all masks of a source, because black alone could be
the id 0 or the colour of another class.

Shape shorthands: H, W: height and width in pixels; K: number of classes.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from sar.data.datasets.class_file import read_class_file
from sar.data.importers.class_map import parse_color
from sar.data.importers.color_masks import ColorMaskReader
from sar.data.importers.source import IGNORED, UNLABELLED, Drawing, Options, SourceClass
from sar.data.importers.tree import Key, Tree
from sar.data.label_files import ColorMaskError, read_color_mask, read_label
from sar.errors import InputError, listed

IDS, COLORS = "ids", "colours"
_CLASS_FILES = ("classes.txt", "labelmap.txt", "class_dict.csv", "labels.txt")
# These ids stand for "no class" by convention, unless a class has the id, or 255 is its grey value.
_IGNORED_IDS = (255, 65535)
_WHITE = (255, 255, 255)
_UNKNOWN = -3
_NUM_TRIED = 50  # masks, evenly spaced, that tell ids from colours
_NUM_NAMED = 30  # values that a message lists


def classes_of_masks(tree: Tree, options: Options) -> list[SourceClass]:
    """Return the classes of --classes, or of the class file in the source; [] without a file.

    Raises:
        InputError: the class file is wrong, or the source has several.
    """
    path = options.classes or _find_class_file(tree)
    return [] if path is None else _numbered(read_class_file(path))


def describe_unpaired(images: Mapping[Key, Path], masks: Mapping[Key, Path]) -> list[str]:
    """Return sentences about images without a mask, and masks without an image, by their keys."""
    unpaired = {
        "Images without a mask": [images[key] for key in sorted(images.keys() - masks.keys())],
        "Masks without an image": [masks[key] for key in sorted(masks.keys() - images.keys())],
    }
    return [
        f"{what}: {len(files)} ({listed(files, 3)})." for what, files in unpaired.items() if files
    ]


def _find_class_file(tree: Tree) -> Path | None:
    """Return the class file that is next to the root of a source.

    Raises:
        InputError: there are several.
    """
    found = tree.named(*_CLASS_FILES)
    nearest = [path for path in found if len(path.parts) == min(len(p.parts) for p in found)]
    if len(nearest) > 1:
        raise InputError(
            f"{listed(nearest)} may all name the classes: choose one with --classes FILE."
        )
    return nearest[0] if nearest else None


def _numbered(classes: Sequence[tuple[str, Sequence[int] | None]]) -> list[SourceClass]:
    """Return classes whose ids are their places."""
    return [
        SourceClass(name, id, None if color is None else tuple(color))
        for id, (name, color) in enumerate(classes)
    ]


class MaskValues:
    """Read the classes of masks from their ids or colours.

    Args:
        classes: the known classes.
        masks: all masks of the source.
        options: ids and colours in `ignore` and `renamed` that no class has become classes, too.

    Attributes:
        classes: K classes, of the indices in drawings.
        kind: IDS or COLORS.

    Raises:
        InputError: the values have no names; ids and colours are both possible and differ.
    """

    def __init__(
        self, classes: Sequence[SourceClass], masks: Sequence[Path], options: Options
    ) -> None:
        self.classes = list(classes)
        words = [*options.ignore, *(old for old, _ in options.renamed)]
        names = {known.name for known in classes}
        words = [word for word in dict.fromkeys(words) if word not in names]
        colors = {known.color for known in classes}
        ids = {known.id for known in classes}
        for word in words:
            if (color := parse_color(word)) and color not in colors:
                self.classes.append(SourceClass(word, color=color))
            elif word.isdecimal() and int(word) not in ids:
                self.classes.append(SourceClass(word, id=int(word)))
        if not self.classes:
            raise InputError(_describe_values(masks))
        self._table = _table_of_ids(self.classes)
        colored = [i for i, known in enumerate(self.classes) if known.color is not None]
        # The indices of classes with colours; IGNORED is -2.
        self._index = np.array([*colored, IGNORED, UNLABELLED], np.int32)
        self._reader = self._color_reader()
        self.kind = self._choose(masks)

    def draw(self, path: Path, size: tuple[int, int]) -> Drawing:
        """Return the label of a mask.

        Args:
            size: the (H, W) of the image, which `draw_upright` compares with the mask.

        Raises:
            InputError: the mask cannot be read, or has values without a class.
        """
        return Drawing(self._by_ids(path) if self.kind == IDS else self._by_colors(path))

    def _color_reader(self) -> ColorMaskReader | None:
        colored = [known for known in self.classes if known.color is not None]
        first: dict[tuple[int, ...], str] = {}
        for known in colored:
            if (other := first.setdefault(known.color, known.name)) != known.name:
                raise InputError(
                    f'The classes "{other}" and "{known.name}" have the same colour '
                    f"{known.color}: give each class a colour of its own, or remove all colours "
                    "to read ids."
                )
        if not colored:
            return None
        return ColorMaskReader([known.name for known in colored], [k.color for k in colored])

    def _choose(self, masks: Sequence[Path]) -> str:
        if self._reader is None or not any(known.id is not None for known in self.classes):
            return IDS if self._reader is None else COLORS
        doubtful, has_ids = None, False
        step = -(-len(masks) // _NUM_TRIED)
        for path in masks[::step]:
            as_ids, as_colors = self._try(self._by_ids, path), self._try(self._by_colors, path)
            if as_colors is not None and (as_ids is None or not _is_grey(path)):
                return COLORS
            if as_colors is None:
                has_ids |= as_ids is not None or _has_one_channel(path)
            elif (as_ids != as_colors).any():
                doubtful = doubtful or path
        if doubtful is not None and not has_ids:
            raise InputError(
                f"The values of {doubtful} may be ids or colours of the classes. To read ids, "
                "remove the colours from the class file, and give it with --classes. To read "
                "colours, move the class file out of the source, and name each colour with "
                "--map R,G,B=NAME."
            )
        return IDS if has_ids else COLORS

    @staticmethod
    def _try(read, path: Path) -> np.ndarray | None:
        try:
            return read(path)
        except InputError:
            return None

    def _by_ids(self, path: Path) -> np.ndarray:
        try:
            ids = read_label(path)
        except ColorMaskError as error:
            raise InputError(
                f"{error.finding} To read colours, give a class file with a colour for each class "
                "(`kerb 255 0 0`) with --classes."
            ) from error
        classes = self._table[ids]
        unknown = classes == _UNKNOWN
        if unknown.any():
            values, counts = np.unique(ids[unknown], return_counts=True)
            found = [f"{v} ({n} pixels)" for v, n in zip(values, counts, strict=True)]
            known = sorted(known.id for known in self.classes if known.id is not None)
            raise InputError(
                f"The mask {path} has ids without a class: {listed(found, 10)}. The classes have "
                f"the ids {_ranges(known)}. Correct the class file, ignore ids with --ignore "
                f"{values[0]}, or name them with --map {values[0]}=NAME.{self._naming_greys(ids)}"
            )
        return classes

    def _naming_greys(self, ids: np.ndarray) -> str:
        """Return a sentence if the ids may be the grey colours of classes in the class file."""
        greys = {
            known.color[0]: known.name
            for known in self.classes
            if None not in (known.id, known.color) and len(set(known.color)) == 1
        }
        if not set(np.unique(ids).tolist()) <= greys.keys():
            return ""
        names = shlex.join(f"{grey}={name}" for grey, name in sorted(greys.items()))
        return f" If the values are the grey colours of the classes, use --map {names}."

    def _by_colors(self, path: Path) -> np.ndarray:
        return self._index[self._reader.read(path)]


def _is_grey(path: Path) -> bool:
    rgb = read_color_mask(path)[:, :, :3]
    return bool((rgb == rgb[:, :, :1]).all())


def _has_one_channel(path: Path) -> bool:
    """Return if a mask has one channel without a palette, so that it can only have ids."""
    with suppress(InputError):
        read_label(path)
        try:
            read_color_mask(path)
        except InputError:
            return True
    return False


def _table_of_ids(classes: Sequence[SourceClass]) -> np.ndarray:
    """Return (65536,) int32: the index of the class of each id, IGNORED or _UNKNOWN."""
    table = np.full(65536, _UNKNOWN, np.int32)
    table[list(_IGNORED_IDS)] = IGNORED
    if any(known.color == _WHITE for known in classes):
        table[255] = _UNKNOWN  # it may be the grey value of this class
    for index, known in enumerate(classes):
        if known.id is not None and known.id < len(table):
            table[known.id] = index
    return table


def _describe_values(masks: Sequence[Path]) -> str:
    """Return the message about masks without names of their values: the values, and what to do."""
    ids: Counter[int] = Counter()
    colors: Counter[tuple[int, ...]] = Counter()
    for path in masks:
        try:
            ids.update(np.unique(read_label(path)).tolist())
        except ColorMaskError:
            found = np.unique(read_color_mask(path)[:, :, :3].reshape(-1, 3), axis=0)
            colors.update(map(tuple, found.tolist()))
        except InputError:  # a damaged mask is reported when it is imported
            continue
    if colors:
        values = [f"{color} in {n} masks" for color, n in colors.most_common()]
        form = "a line such as `kerb 255 0 0` (name and colour) for each class"
        also = ""
    else:
        values = [f"{i} in {n} masks" for i, n in sorted(ids.items())]
        form = "one class name per line; the first line is id 0"
        also = " Or name each id: --map 0=road 7=kerb."
    what = "colours" if colors else "ids"
    return (
        f"The {len(masks)} masks have {what} without names: {listed(values, _NUM_NAMED)}. Write a "
        f"class file, with {form}. Give it with --classes FILE.{also}"
    )


def _ranges(ids: Sequence[int]) -> str:
    return f"0 to {ids[-1]}" if list(ids) == list(range(len(ids))) else listed(ids, _NUM_NAMED)
