"""Divide images into splits so that each class is in every split.

Iterative stratification: Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label
Data", ECML PKDD 2011, algorithm 1. Differences: groups of images stay together; a class in enough
images has at least one image in each split; and several orders of the groups are tried.

Shape shorthands: N: number of groups; K: number of classes; S: number of splits.
"""

from collections.abc import Sequence

import numpy as np

_NUM_TRIES = 20


def stratify(
    counts: np.ndarray, sizes: np.ndarray, ratios: Sequence[float], seed: int
) -> np.ndarray:
    """Choose a split for each group.

    The result depends only on the arguments.

    Args:
        counts: (N, K), the number of images of the group that show the class.
        sizes: (N,), the number of images of the group.
        ratios: S shares of the images, positive.
        seed: chooses among equally good divisions.

    Returns:
        (N,) int64, the index of the split.
    """
    shares = np.asarray(ratios, np.float64) / np.sum(ratios)
    rng = np.random.default_rng(seed)
    best, best_score = np.zeros(len(sizes), np.int64), None
    for _ in range(_NUM_TRIES):
        chosen = _divide(counts, sizes, shares, rng.permutation(len(sizes)))
        score = (_num_missing(counts, chosen, len(shares)), _imbalance(sizes, chosen, shares))
        if best_score is None or score < best_score:
            best, best_score = chosen, score
        if score[0] == 0:
            break
    return best


def missing_classes(counts: np.ndarray, chosen: np.ndarray, num_splits: int) -> np.ndarray:
    """Return (S, K) bool: which classes are in some group, but in no group of the split."""
    shown = np.stack([(counts[chosen == split] > 0).any(axis=0) for split in range(num_splits)])
    return ~shown & (counts > 0).any(axis=0)


def _num_missing(counts: np.ndarray, chosen: np.ndarray, num_splits: int) -> int:
    is_possible = (counts > 0).sum(axis=0) >= num_splits
    return int((missing_classes(counts, chosen, num_splits) & is_possible).sum())


def _imbalance(sizes: np.ndarray, chosen: np.ndarray, shares: np.ndarray) -> float:
    found = np.bincount(chosen, sizes, minlength=len(shares))
    return float(np.abs(found - shares * sizes.sum()).sum())


def _divide(
    counts: np.ndarray, sizes: np.ndarray, shares: np.ndarray, order: np.ndarray
) -> np.ndarray:
    shows = counts > 0
    wanted = shares * sizes.sum()  # images that each split still needs
    wanted_of = _wanted_of_classes(counts, shows, shares)  # (K, S), the same for each class
    chosen = np.full(len(sizes), -1)
    remaining = shows.sum(axis=0)  # groups of each class without a split

    def assign(group: int, preference: np.ndarray) -> None:
        # The largest need decides, then the largest need of images; the first split wins ties.
        split = max(range(len(shares)), key=lambda s: (preference[s], wanted[s]))
        chosen[group] = split
        wanted[split] -= sizes[group]
        wanted_of[:, split] -= counts[group]
        remaining[shows[group]] -= 1

    while (remaining > 0).any():
        rarest = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        for group in order[(chosen[order] < 0) & shows[order, rarest]]:
            assign(group, wanted_of[rarest])
    for group in order[chosen[order] < 0]:  # images without a class
        assign(group, wanted)
    return chosen


def _wanted_of_classes(counts: np.ndarray, shows: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return (K, S) images of each class that each split needs."""
    wanted = counts.sum(axis=0)[:, None] * shares
    for k in np.flatnonzero(shows.sum(axis=0) >= len(shares)):
        total = wanted[k].sum()
        wanted[k] = np.maximum(wanted[k], 1)
        wanted[k, wanted[k].argmax()] -= wanted[k].sum() - total
    return wanted
