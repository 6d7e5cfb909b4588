"""Describe which classes the runs of a method confuse, in types that JSON can hold.

K: number of classes.
"""

from collections.abc import Sequence

import numpy as np


def describe_confusions(confusions: Sequence[np.ndarray | None]) -> dict | None:
    """Return the confusion matrix of a method: the sum over its runs, as shares of each row.

    Args:
        confusions: (K, K) counts of each run. Row: true class; column: predicted class. None for a
            run without them.

    Returns:
        "pixels": K counts of ground-truth pixels; "shares": K x K shares of the pixels of each
        class, with 4 digits, or None for the row of a class without ground truth. None if a run has
        no counts.
    """
    if any(confusion is None for confusion in confusions):
        return None
    total = np.sum(confusions, axis=0)
    pixels = total.sum(axis=1)
    shares = [
        [round(share, 4) for share in (row / count).tolist()] if count else None
        for row, count in zip(total, pixels, strict=True)
    ]
    return {"pixels": pixels.tolist(), "shares": shares}
