"""Format the metrics of an evaluation as a table."""

import math
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from sar.data.class_frequency import ClassFrequency
from sar.errors import printable
from sar.evaluation.class_groups import class_groups, describe_ties
from sar.evaluation.class_metrics import CLASS_METRICS

# Means that tables show, if they were measured.
HEADLINE = (
    "mIoU",
    "mIoU@f",
    "mIoU@c",
    "mIoU@r",
    "fwIoU",
    "mACC",
    "pACC",
    "mPrecision",
    "mF1",
)
GROUP_NAMES = {"f": "frequent", "c": "common", "r": "rare"}


def format_table(
    metrics: Mapping[str, float],
    class_names: Sequence[str],
    class_frequency: ClassFrequency | None = None,
    geometry: Mapping[str, float] | None = None,
) -> str:
    """Return tables of the means, the classes and the geometry.

    The classes that are most frequent in training come first. Their groups and order follow the
    image frequency, as in mIoU@f, mIoU@c and mIoU@r. Without `class_frequency`, classes are in the
    order of their ids.

    Args:
        metrics: from `sar.evaluation.confusion.confusion_metrics`, in percent.
        class_names: K names.
        class_frequency: counts of the training set, for the same K classes.
        geometry: the numbers of `sar.evaluation.geometry.FeatureGeometry.compute`.
    """
    headline = [name for name in HEADLINE if name in metrics]
    means = _grid([[_percent(metrics[name]) for name in headline]], headline, num_texts=0)

    measured = [name for name in CLASS_METRICS if f"m{name}" in metrics]
    if class_frequency is None:
        headers = ["class", *measured]
        rows = [[name] for name in class_names]
    else:
        images, pixels = class_frequency.images, class_frequency.pixels
        headers = ["class", "group", "train pixels %", "train images %", *measured]
        rows = [
            [
                class_names[i],
                GROUP_NAMES[group],
                _percent(100 * pixels[i] / sum(pixels), 3),
                _percent(100 * images[i] / class_frequency.num_images),
            ]
            for group, ids in class_groups(images, ties_by=pixels).items()
            for i in ids
        ]
    for row in rows:
        row += [_percent(metrics[f"{metric}-{row[0]}"]) for metric in measured]
        row[0] = printable(row[0])
    parts = [means, _grid(rows, headers, num_texts=1 if class_frequency is None else 2)]

    if geometry:
        row = ["-" if math.isnan(value) else f"{value:.4g}" for value in geometry.values()]
        parts.append(_grid([row], list(geometry), num_texts=0))
        parts.append("NC1 to NC3: 0 is full neural collapse.")
    if any(math.isnan(metrics[f"{m}-{name}"]) for m in measured for name in class_names):
        parts.append(
            "-: no ground truth in this data set (for precision: or no prediction), so left out of "
            "the means."
        )
    if class_frequency is not None:
        ties = describe_ties(images, pixels, class_names)
        if ties:
            parts.append(ties)
    else:
        parts.append(
            "To see mIoU@f, mIoU@c and mIoU@r (frequent, common and rare classes), write the class "
            "frequencies of the training set with tools/check_dataset.py. Then set "
            "DATASETS.CLASS_FREQUENCY to that file."
        )
    return "\n\n".join(parts)


def _percent(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _grid(rows: list[list[str]], headers: list[str], num_texts: int) -> str:
    """Return a table with `num_texts` columns of text on the left, and numbers to the right."""
    alignment = ["left"] * num_texts + ["right"] * (len(headers) - num_texts)
    # The cells are formatted already, and a class may be called "1e3".
    return tabulate(rows, headers, tablefmt="pipe", colalign=alignment, disable_numparse=True)
