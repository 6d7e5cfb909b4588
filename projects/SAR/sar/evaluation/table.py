"""Format the metrics of an evaluation as a table."""

import math
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from sar.data.class_frequency import ClassFrequency
from sar.data.units import IMAGES, Units
from sar.errors import printable
from sar.evaluation.class_groups import class_groups, describe_ties
from sar.evaluation.class_metrics import CLASS_METRICS, OBJECT_METRICS, PIXEL_METRICS

# Means that tables show, if they were measured: of pixels and of objects.
HEADLINE = (
    "mIoU",
    "mIoU@f",
    "mIoU@c",
    "mIoU@r",
    "mIoU@r_pixel",
    "fwIoU",
    "mACC",
    "pACC",
    "mPrecision",
    "mF1",
    "mBoundaryIoU",
    "Loss",
)
OBJECT_HEADLINE = (
    "mObjectRecall",
    "mObjectRecall@r",
    "mObjectPrecision",
    "mObjectPrecision@r",
)
GROUP_NAMES = {"f": "frequent", "c": "common", "r": "rare"}


def format_table(
    metrics: Mapping[str, float],
    class_names: Sequence[str],
    class_frequency: ClassFrequency | None = None,
    *,
    own_groups: Sequence[str] = (),
    geometry: Mapping[str, float] | None = None,
    objects: Mapping[str, Sequence[int]] | None = None,
    units: Units = IMAGES,
) -> str:
    """Return tables of the means, the classes, the objects and the geometry.

    The classes that are most frequent in training come first. Their groups and order follow the
    image frequency, as in mIoU@f, mIoU@c and mIoU@r. Without `class_frequency`, classes are in the
    order of their ids.

    Args:
        metrics: of pixels and objects, in percent, by the names of `LongTailEvaluator`.
        class_names: K names.
        class_frequency: counts of the training set, for the same K classes.
        own_groups: names of the data set's own groups of classes.
        geometry: the numbers of `sar.evaluation.geometry.FeatureGeometry.compute`.
        objects: counts (K,) by the names in OBJECT_COUNTS.
        units: what the texts call the samples of the data set and their parts.
    """
    groups, order = {}, range(len(class_names))
    if class_frequency is not None:
        groups = class_groups(class_frequency.images, ties_by=class_frequency.pixels)
        order = [i for ids in groups.values() for i in ids]
    measured = [name for name in CLASS_METRICS if f"m{name}" in metrics]

    def table(columns: Mapping[str, Sequence[str]], names: Sequence[str], num_texts: int) -> str:
        """Return a table of the classes: name, columns of K cells, metrics."""
        rows = [
            [
                printable(class_names[i]),
                *(cells[i] for cells in columns.values()),
                *(_percent(metrics[f"{name}-{class_names[i]}"]) for name in names),
            ]
            for i in order
        ]
        return grid(rows, ["class", *columns, *names], num_texts)

    columns = _training_columns(groups, class_frequency, units) if groups else {}
    of_pixels = [name for name in measured if name in PIXEL_METRICS]
    after_groups = HEADLINE.index("fwIoU")
    headline = list(HEADLINE)
    headline[after_groups:after_groups] = [f"mIoU@{name}" for name in own_groups]
    parts = [_means(metrics, headline), table(columns, of_pixels, num_texts=2 if groups else 1)]
    if objects:
        counts = {name: [str(count) for count in row] for name, row in objects.items()}
        parts += [_means(metrics, OBJECT_HEADLINE), table(counts, OBJECT_METRICS, num_texts=1)]
    if geometry:
        row = ["-" if math.isnan(value) else f"{value:.4g}" for value in geometry.values()]
        parts.append(grid([row], list(geometry), num_texts=0))
        parts.append("NC1 to NC3: 0 is full neural collapse.")
    if any(math.isnan(metrics[f"{m}-{name}"]) for m in measured for name in class_names):
        parts.append(
            "-: no ground truth in this data set (for precision: or no prediction), so left out of "
            "the means."
        )
    if class_frequency is not None:
        ties = describe_ties(
            class_frequency.images,
            class_frequency.pixels,
            class_names,
            units=(f"{units.sample}s", f"{units.part}s"),
        )
        if ties:
            parts.append(ties)
    else:
        parts.append(
            "To see mIoU@f, mIoU@c and mIoU@r (frequent, common and rare classes), write the class "
            "frequencies of the training set with tools/check_dataset.py. Then set "
            "DATASETS.CLASS_FREQUENCY to that file."
        )
    return "\n\n".join(parts)


def _means(metrics: Mapping[str, float], names: Sequence[str]) -> str:
    """Return a table of one row, with the means that were measured."""
    found = [name for name in names if name in metrics]
    row = [_percent(metrics[name], 4 if name == "Loss" else 2) for name in found]
    return grid([row], found, num_texts=0)


def _training_columns(
    groups: Mapping[str, Sequence[int]], frequency: ClassFrequency, units: Units
) -> dict[str, list[str]]:
    """Return columns of K cells that say how frequent each class is in training."""
    group_of = {i: GROUP_NAMES[name] for name, ids in groups.items() for i in ids}
    num_pixels = sum(frequency.pixels)
    return {
        "group": [group_of[i] for i in range(len(group_of))],
        f"train {units.part}s %": [
            _percent(100 * count / num_pixels, 3) for count in frequency.pixels
        ],
        f"train {units.sample}s %": [
            _percent(100 * count / frequency.num_images) for count in frequency.images
        ],
    }


def _percent(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def grid(rows: Sequence[Sequence[str]], headers: Sequence[str], num_texts: int = 1) -> str:
    """Return a table with `num_texts` columns of text on the left, and numbers to the right."""
    alignment = ["left"] * num_texts + ["right"] * (len(headers) - num_texts)
    # The cells are formatted already, and a class may be called "1e3".
    return tabulate(rows, headers, tablefmt="pipe", colalign=alignment, disable_numparse=True)
