"""Describe what an import takes from its source, and what it does not.

Shape shorthands: K: number of classes of the source; L: number of classes of the new data set.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from sar.data.datasets.folder import SPLITS
from sar.data.ignored_foreground import IgnoredForeground
from sar.data.importers.class_map import BACKGROUND, ClassMap
from sar.data.importers.examine import Counts, Examination, total
from sar.data.importers.source import IGNORED, UNLABELLED, Source
from sar.errors import listed, printable

_NUM_LISTED = 10


def class_table(
    source: Source, classes: ClassMap, counts: Sequence[Counts], splits: Sequence[str]
) -> str:
    """Return a table with a row for each class of the new data set, and one for ignored pixels.

    The columns are: the id; the class; the classes of the source with other names that it contains;
    the images of each split that show it; its share of the pixels; its shapes; and the share of the
    pixels of its shapes that other classes cover.

    Args:
        counts: of the images that are taken.
        splits: their splits.
    """
    new_ids = classes.ids.astype(int).tolist()
    rows_of = {i: row for row, i in enumerate([*range(len(classes.names)), classes.ignore_label])}
    rows = np.array([rows_of[i] for i in new_ids])  # the row of each class of the source
    pixels = np.zeros((len(counts), len(rows_of)), np.int64)
    for image, found in enumerate(counts):
        np.add.at(pixels[image], rows, found.pixels)
    shapes, covered = np.zeros((2, len(rows_of)), np.int64)
    for index, number in total([found.drawing.shapes for found in counts]).items():
        shapes[rows[index]] += number  # IGNORED is -2
    for (below, above), number in total([found.drawing.covered for found in counts]).items():
        if rows[below] != rows[above]:  # classes that are merged hide nothing of each other
            covered[rows[below]] += number
    used = [split for split in SPLITS if split in splits]
    of_split = {split: np.array([found == split for found in splits]) for split in used}
    all_pixels = pixels.sum(axis=0)
    table = []
    for i, row in rows_of.items():
        name = classes.names[row] if row < len(classes.names) else "(ignored)"
        olds = [k.name for k, r in zip(source.classes, rows[:-2], strict=True) if r == row]
        images = [int((pixels[of_split[split], row] > 0).sum()) for split in used]
        share = _percent(all_pixels[row], all_pixels.sum())
        hidden = _percent(covered[row], all_pixels[row] + covered[row])
        others = listed([old for old in olds if old != name], _NUM_LISTED)
        table.append([i, printable(name), printable(others), *images, share])
        table[-1] += [int(shapes[row]), hidden] if shapes.any() else []
    headers = ["id", "class", "from", *(f"{split} images" for split in used), "pixels"]
    headers += ["shapes", "covered"] if shapes.any() else []
    align = ["right", "left", "left"] + ["right"] * (len(headers) - 3)
    if not any(row[2] for row in table):  # no other names
        for line in (headers, align, *table):
            del line[2]
    return tabulate(table, headers, disable_numparse=True, colalign=align)


def findings(
    source: Source,
    classes: ClassMap,
    taken: Examination,
    left_out: Counter[tuple[str, str]],
) -> list[str]:
    """Return sentences about what was not taken, or taken in a way that may surprise.

    Args:
        taken: the images that are taken.
        left_out: as in `Drawing`, for all images that could be drawn, also for empty ones.
    """
    found = list(source.notes)
    counts = taken.counts
    all_pixels = sum(count.pixels for count in counts)
    ignored = [
        f"{known.name} ({_percent(all_pixels[index], all_pixels.sum())} of the pixels)"
        for index, known in enumerate(source.classes)
        if classes.ids[index] == classes.ignore_label
    ]
    if ignored:
        found.append(f"Ignored classes: {listed(ignored, _NUM_LISTED)}.")
    found += _ignored_foreground(classes, taken)
    for reason in dict.fromkeys(reason for reason, _ in left_out):
        of_class = {name: n for (why, name), n in left_out.most_common() if why == reason}
        names = [f"{name} {number}" for name, number in of_class.items()]
        found.append(
            f"Left out: {sum(of_class.values())} x {reason} ({listed(names, _NUM_LISTED)})."
        )
    traced = total([count.drawing.traced for count in counts])
    if traced[True] > traced[False]:
        found.append(
            f"{traced[True]} of {traced.total()} polygons with many points follow the pixels of "
            "masks, and lose a part of their outline. To restore the masks, add --fill outline."
        )
    if all_pixels[UNLABELLED]:
        share = _percent(all_pixels[UNLABELLED], all_pixels.sum())
        if BACKGROUND in classes.names:
            found.append(
                f'{share} of the pixels are in no shape. They have the class "{BACKGROUND}"; with '
                "--background ignore, they are ignored."
            )
        else:
            found.append(f"{share} of the pixels are in no shape. They are ignored.")
    if doubtful := sum(count.is_doubtful for count in counts):
        found.append(
            f"{doubtful} images have an EXIF orientation that keeps their size. Their labels are "
            "taken as drawn on the upright images. Look at some of them."
        )
    if len(classes.names) == 1:
        found.append(
            f'"{classes.names[0]}" is the only class, and one class alone cannot be learned: '
            "take the background as a class (--background class)."
        )
    by_case: dict[str, list[str]] = {}
    for name in classes.names:
        by_case.setdefault(name.casefold(), []).append(name)
    for names in by_case.values():
        if len(names) > 1:
            found.append(
                f"The classes {' and '.join(names)} differ in upper case only. To merge them: "
                f'--map "{names[1]}={names[0]}".'
            )
    return found


def _ignored_foreground(classes: ClassMap, taken: Examination) -> list[str]:
    """Return a sentence if the masks may show their foreground as ignored pixels."""
    foreground = IgnoredForeground(classes.ignore_label)
    for item, count in zip(taken.items, taken.counts, strict=True):
        ids = np.zeros(classes.ignore_label + 1, np.int64)
        np.add.at(ids, classes.ids[:IGNORED], count.pixels[:IGNORED])
        ids[classes.ignore_label] = count.pixels[IGNORED]  # without classes that the user ignores
        foreground.add(item.name, ids)
    return foreground.warnings()


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0
    return f"{share:.1f}%" if share >= 0.05 or part == 0 else f"{share:.1g}%"
