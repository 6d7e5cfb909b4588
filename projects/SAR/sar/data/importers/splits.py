"""Choose the split of each image: as the source says, or by shares.

Shape shorthands: N: number of images; K: number of classes; S: number of splits.
"""

import re
from collections.abc import Sequence

import numpy as np

from sar.data.datasets.folder import SPLITS
from sar.data.importers.source import Item
from sar.data.importers.stratify import missing_classes, stratify
from sar.errors import InputError, listed

DEFAULT_SHARES = (80, 20)


def choose_splits(
    items: Sequence[Item],
    shows: np.ndarray,
    names: Sequence[str],
    *,
    shares: Sequence[int] | None,
    group: re.Pattern | None,
    seed: int,
) -> tuple[list[str], str]:
    """Return the split of each item, and a sentence about the choice.

    Args:
        items: N images.
        shows: (N, K) bool, which classes each image shows.
        names: K class names.
        shares: shares of train, val and test; None: as the source says, or DEFAULT_SHARES if it
            says nothing.
        group: a pattern. Images for which it finds the same text in their path stay together. The
            text is the first group of the pattern, or all that it matches.
        seed: chooses among equally good divisions.

    Raises:
        InputError: only some images have a split, none is for training, or `group` is not found in
            a path.
    """
    given = [item.split for item in items]
    if shares is None and any(given):
        if None in given:
            lacking = [item.image for item in items if item.split is None]
            raise InputError(
                f"{len(lacking)} of {len(items)} images have no split, but others have one: "
                f"{listed(lacking, 3)}. Divide all images with --split "
                f"{':'.join(map(str, DEFAULT_SHARES))}."
            )
        if "train" not in given:
            raise InputError(
                f"The source has no training images, only {listed(sorted(set(given)))}. Give the "
                "whole export, or divide its images with --split "
                f"{':'.join(map(str, DEFAULT_SHARES))}."
            )
        if group is not None:
            raise InputError("--group needs shares, such as --split 80:20.")
        return given, "The splits are as the source says."
    shares = shares or DEFAULT_SHARES
    keys = [_key(item, group) for item in items]
    order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    members = np.array([order[key] for key in keys])
    counts = np.zeros((len(order), len(names)), np.int64)
    np.add.at(counts, members, shows)
    chosen = stratify(counts, np.bincount(members), shares, seed)
    sentence = f"{len(items)} images were divided {':'.join(map(str, shares))}"
    if group is not None:
        sentence += f", with {len(order)} groups kept together"
    sentence += ", so that each class is in each split."
    absent = []
    for split, missing in zip(SPLITS, missing_classes(counts, chosen, len(shares)), strict=False):
        if missing.any():
            found = [names[k] for k in np.flatnonzero(missing)]
            absent.append(f"{split} lacks {listed(found)}")
    if absent:
        units = "groups" if group is not None else "images"
        sentence = sentence.replace(", so that", ", if possible so that")
        sentence += f" Too few {units} show some classes: {'; '.join(absent)}."
    return [SPLITS[split] for split in chosen[members]], sentence


def _key(item: Item, group: re.Pattern | None) -> object:
    if group is None:
        return item
    match = group.search(item.image.as_posix())
    if match is None:
        raise InputError(
            f'--group "{group.pattern}" is not found in the path {item.image.as_posix()}: correct '
            "the pattern."
        )
    return match[1] if group.groups else match[0]
