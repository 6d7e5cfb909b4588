"""Choose the split of each image: as the source says, or by shares.

Shape shorthands: N: number of images; K: number of classes; S: number of splits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sar.data.datasets.folder import SPLITS
from sar.data.importers.source import Item
from sar.data.importers.stratify import missing_classes, stratify
from sar.errors import InputError, listed

DEFAULT_SHARES = (80, 20)


@dataclass(frozen=True)
class Grouping:
    """How images are divided into groups that stay together.

    Attributes:
        pattern: images stay together if it finds the same text in their paths. The text is the
            first group of the pattern, or all that it matches.
        folders: the paths begin below the first of these folders that contains the image.
    """

    pattern: re.Pattern
    folders: Sequence[Path]

    def of(self, item: Item) -> str:
        """Return the text that names the group of an item.

        Raises:
            InputError: the pattern is not found.
        """
        folder = next(folder for folder in self.folders if item.image.is_relative_to(folder))
        path = item.image.relative_to(folder).as_posix()
        match = self.pattern.search(path)
        if match is None:
            raise InputError(
                f'--group "{self.pattern.pattern}" is not found in the path {path}, which begins '
                f"below {folder}: correct the pattern."
            )
        return match[1] if self.pattern.groups else match[0]


def check_splits(
    items: Sequence[Item], shares: Sequence[int] | None, group: Grouping | None
) -> None:
    """Check that images can be divided, before their labels are read.

    Args:
        items, shares, group: as in `choose_splits`.

    Raises:
        InputError: only some images have a split, or none is for training; or the pattern of
            `group` is not found in a path, it finds fewer groups than there are splits, or the
            source has splits.
    """
    given = [item.split for item in items]
    if shares is not None or not any(given):
        if group is not None:
            _check_number(group, items, shares or DEFAULT_SHARES)
        return
    remedy = f"--split {_text(DEFAULT_SHARES)}"
    if None in given:
        lacking = [item.image for item in items if item.split is None]
        raise InputError(
            f"{len(lacking)} of {len(items)} images have no split, but others have one: "
            f"{listed(lacking, 3)}. Divide all images with {remedy}."
        )
    if "train" not in given:
        raise InputError(
            f"The source has no training images, only {listed(sorted(set(given)))}. Give the "
            f"whole export, or divide its images with {remedy}."
        )
    if group is not None:
        raise InputError(f"The source has splits. To divide by --group, add {remedy}.")


def choose_splits(
    items: Sequence[Item],
    shows: np.ndarray,
    names: Sequence[str],
    *,
    shares: Sequence[int] | None,
    group: Grouping | None,
    seed: int,
) -> tuple[list[str], str]:
    """Return the split of each item, and a sentence about the choice.

    Args:
        items: N images, for which `check_splits` passes.
        shows: (N, K) bool, which classes each image shows.
        names: K class names.
        shares: shares of train, val and test; None: as the source says, or DEFAULT_SHARES if it
            says nothing.
        group: which images stay together; None: each image alone.
        seed: chooses among equally good divisions.
    """
    if shares is None and any(item.split for item in items):
        return [item.split for item in items], "The splits are as the source says."
    shares = shares or DEFAULT_SHARES
    keys = items if group is None else [group.of(item) for item in items]
    order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    members = np.array([order[key] for key in keys])
    counts = np.zeros((len(order), len(names)), np.int64)
    np.add.at(counts, members, shows)
    chosen = stratify(counts, np.bincount(members), shares, seed)
    absent = []
    for split, missing in zip(SPLITS, missing_classes(counts, chosen, len(shares)), strict=False):
        if missing.any():
            found = [names[k] for k in np.flatnonzero(missing)]
            absent.append(f"{split} lacks {listed(found)}")
    units = f"{len(order)} groups of images" if group is not None else f"{len(items)} images"
    sentence = f"{units} were divided {_text(shares)}"
    if group is not None:
        sentence += f" ({_describe_groups(order, members, chosen, len(shares))})"
    if absent:
        sentence += f". Too few show some classes: {'; '.join(absent)}."
    else:
        sentence += ", with each class in each split."
    return [SPLITS[split] for split in chosen[members]], sentence


def _check_number(group: Grouping, items: Sequence[Item], shares: Sequence[int]) -> None:
    names = sorted({group.of(item) for item in items})
    if len(names) < len(shares):
        raise InputError(
            f'--group "{group.pattern.pattern}" finds {len(names)} groups of images '
            f"({listed(names)}), but {_text(shares)} needs at least {len(shares)}: correct the "
            "pattern, or give fewer shares with --split."
        )


def _describe_groups(
    order: dict[object, int], members: np.ndarray, chosen: np.ndarray, num_splits: int
) -> str:
    """Return the share of the images and the groups of each split, except for training."""
    texts = []
    for split in range(1, num_splits):
        names = [str(key) for key, index in order.items() if chosen[index] == split]
        share = (chosen[members] == split).mean()
        texts.append(f"{SPLITS[split]}: {share:.0%} of the images, {listed(names, 5)}")
    return "; ".join(texts)


def _text(shares: Sequence[int]) -> str:
    return ":".join(map(str, shares))
