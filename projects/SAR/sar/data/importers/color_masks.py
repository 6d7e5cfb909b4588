"""Read colour masks, in which the colour of a pixel stands for its class.

Shape shorthands: H, W: height and width in pixels; K: number of classes.
"""

import os
from collections.abc import Sequence

import numpy as np

from sar.data.importers.source import IGNORED, Color
from sar.data.label_files import read_color_mask
from sar.errors import InputError

_NUM_NAMED = 5  # unknown colours that an error message names


class ColorMaskReader:
    """Read the classes of colour masks.

    Args:
        names: K class names.
        colors: K different colours.
    """

    def __init__(self, names: Sequence[str], colors: Sequence[Color]) -> None:
        self._names, self._colors = names, np.array(colors, np.int64).reshape(-1, 3)
        # By packed colour: k + 1 for class k, 0 without a class. The 2^24 zeros take no memory
        # until a page is written.
        self._codes = np.zeros(2**24, np.int32)
        self._codes[_packed(self._colors)] = np.arange(len(names)) + 1

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """Return (H, W) int32, the index of each pixel's class; IGNORED if fully transparent.

        Raises:
            InputError: as in `read_color_mask`, or the mask has a colour without a class.
        """
        rgba = read_color_mask(path)
        classes = self._codes[rgba.view("<u4")[:, :, 0] & 0xFFFFFF] - 1
        is_transparent = rgba[:, :, 3] == 0
        unknown = (classes < 0) & ~is_transparent
        classes[is_transparent] = IGNORED
        if unknown.any():
            raise InputError(self._describe_unknown(path, rgba[unknown]))
        return classes

    def _describe_unknown(self, path: str | os.PathLike, rgba: np.ndarray) -> str:
        """Return the message about (N, 4) pixels of unknown colours, most frequent first."""
        colors, counts = np.unique(rgba[:, :3], axis=0, return_counts=True)
        found = []
        for i in np.argsort(-counts, kind="stable")[:_NUM_NAMED]:
            nearest = np.square(self._colors - colors[i]).sum(axis=1).argmin()
            found.append(
                f"{tuple(colors[i].tolist())} ({_counted(counts[i])}, nearest to "
                f'"{self._names[nearest]}" {tuple(self._colors[nearest].tolist())})'
            )
        if len(colors) > _NUM_NAMED:
            found.append(f"and {len(colors) - _NUM_NAMED} more colours")
        return (
            f"The mask {path} has {_counted(counts.sum())} in colours without a class: "
            f"{', '.join(found)}. Correct the mask, add the colours to the class file, or "
            "name them with --ignore R,G,B."
        )


def _counted(pixels: int) -> str:
    return f"{pixels} {'pixel' if pixels == 1 else 'pixels'}"


def _packed(colors: np.ndarray) -> np.ndarray:
    """Return (...) numbers of 24 bits for (..., 3) colours, red in the lowest 8 bits."""
    return colors[..., 0] | colors[..., 1] << 8 | colors[..., 2] << 16
