"""Frequent, common and rare classes, by how often each is seen in training."""

import math
from collections.abc import Sequence

from sar.errors import InputError


def class_groups(counts: Sequence[float]) -> dict[str, list[int]]:
    """Splits K classes into frequent ("f"), common ("c") and rare ("r") ones.

    Sorted by count in descending order (equal counts by class id), the first 60% of the classes
    are frequent, the next 20% common, the last 20% rare: the convention of the LTSS benchmark (Li
    et al., TMM 2024). The cuts, at 0.6 K and 0.8 K, are rounded to the nearest class; with two
    classes or more at least one is rare. K = 10 gives 6/2/2, K = 11 gives 7/2/2.

    Args:
        counts: (K,) training images, or training pixels, that show each class.

    Returns:
        The class ids of each group, the most frequent first. A group may be empty when K < 4.

    Raises:
        InputError: no class, a count that is negative or not finite, or nothing but zeros.

    Example::

        >>> class_groups([5, 90, 40, 1, 70])
        {'f': [1, 4, 2], 'c': [0], 'r': [3]}
    """
    num_classes = len(counts)
    for class_id, count in enumerate(counts):
        if not (math.isfinite(count) and count >= 0):
            raise InputError(
                f"The training frequency of class {class_id} is {count}, expected a finite count "
                "of at least 0: write the class-frequency file anew with tools/check_dataset.py."
            )
    if not any(counts):
        raise InputError(
            f"None of {num_classes} classes was seen in training, so they cannot be grouped by "
            "frequency: check the class-frequency file, or write it with tools/check_dataset.py."
        )
    by_frequency = sorted(range(num_classes), key=lambda class_id: -counts[class_id])
    common_start = round(3 * num_classes / 5)
    rare_start = min(round(4 * num_classes / 5), max(num_classes - 1, 1))
    return {
        "f": by_frequency[:common_start],
        "c": by_frequency[common_start:rare_start],
        "r": by_frequency[rare_start:],
    }
