"""Group classes into frequent, common and rare ones, by their counts in training."""

import math
from collections.abc import Sequence

from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError, listed, printable


def class_groups(counts: Sequence[float], ties_by: Sequence[float]) -> dict[str, list[int]]:
    """Split K classes into frequent ("f"), common ("c") and rare ("r") ones.

    Classes are sorted by count, the highest first. The first 60% are frequent, the next 20% common,
    the last 20% rare. This is the convention of the LTSS benchmark (Li et al., TMM 2024). The cuts
    at 0.6 K and 0.8 K are rounded to the nearest class. With two classes or more, at least one is
    rare. K = 10 gives 6/2/2, K = 11 gives 7/2/2. Equal counts are sorted by `ties_by`, then by
    class id.

    Args:
        counts: (K,) number of training images, or of training pixels, that show each class.
        ties_by: (K,) the other number, pixels or images. It decides between equal counts.

    Returns:
        The class ids of each group, the most frequent first. A group may be empty if K < 4.

    Raises:
        InputError: no classes are given, a count is negative or not finite, or all counts are zero.

    Example::

        >>> class_groups([5, 90, 40, 5, 70], ties_by=[30, 900, 400, 60, 10])
        {'f': [1, 4, 2], 'c': [3], 'r': [0]}
    """
    num_classes = len(counts)
    for class_id, count in enumerate(counts):
        if not (math.isfinite(count) and count >= 0):
            raise InputError(
                f"The training frequency of class {class_id} is {count}, expected a finite count "
                "of at least 0: write the class-frequency file again with tools/check_dataset.py."
            )
    if not any(counts):
        raise InputError(
            f"None of the {num_classes} classes was seen in training, so they cannot be grouped by "
            "frequency: check the class-frequency file, or write it with tools/check_dataset.py."
        )
    by_frequency = sorted(range(num_classes), key=lambda i: (-counts[i], -ties_by[i]))
    common_start = round(3 * num_classes / 5)
    rare_start = min(round(4 * num_classes / 5), max(num_classes - 1, 1))
    return {
        "f": by_frequency[:common_start],
        "c": by_frequency[common_start:rare_start],
        "r": by_frequency[rare_start:],
    }


def groups_of_dataset(
    frequency: ClassFrequency, dataset_name: str, class_names: Sequence[str]
) -> dict[str, list[int]]:
    """Return the class ids of the groups by image (f, c, r) and by pixel (f_pixel, ...).

    Args:
        frequency: counts of the training set.
        dataset_name: the evaluated data set, for messages.
        class_names: K names of the classes in this data set.

    Raises:
        InputError: the counts are of other classes, or `class_groups` refuses them.
    """
    remedy = (
        "write the file of DATASETS.CLASS_FREQUENCY again with tools/check_dataset.py, "
        "from the training set that belongs to this data set."
    )
    if len(frequency.class_names) != len(class_names):
        raise InputError(
            f"The class-frequency file has {len(frequency.class_names)} classes, but data set "
            f'"{dataset_name}" has {len(class_names)}: {remedy}'
        )
    for i, (found, expected) in enumerate(zip(frequency.class_names, class_names, strict=True)):
        if found != expected:
            raise InputError(
                f'Class {i} is "{found}" in the class-frequency file, but "{expected}" in data '
                f'set "{dataset_name}": {remedy}'
            )
    images, pixels = frequency.images, frequency.pixels
    by_pixels = class_groups(pixels, ties_by=images)
    return class_groups(images, ties_by=pixels) | {
        f"{name}_pixel": ids for name, ids in by_pixels.items()
    }


def describe_ties(
    counts: Sequence[float],
    ties_by: Sequence[float],
    class_names: Sequence[str],
    *,
    units: tuple[str, str] = ("images", "pixels"),
) -> str | None:
    """Name the classes that have equal counts but are in different groups, in one line.

    Args:
        counts, ties_by: (K,) as in `class_groups`.
        class_names: K names.
        units: units of `counts` and `ties_by`.

    Returns:
        A sentence, or None if no tie decides a group.
    """
    group_of = {i: g for g, ids in class_groups(counts, ties_by).items() for i in ids}
    ties = []
    for count in sorted(set(counts), reverse=True):
        tied = [i for i in group_of if counts[i] == count]
        if len({group_of[i] for i in tied}) > 1:
            names = listed([printable(class_names[i]) for i in tied])
            ties.append(f"{names} ({count} {units[0]} each)")
    if not ties:
        return None
    return (
        f"Equal numbers of {units[0]} at the border of two groups are ordered by {units[1]}, then "
        f"by class id: {'; '.join(ties)}."
    )
