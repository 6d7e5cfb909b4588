"""Convert colour masks, which annotation tools export instead of label maps, to class ids.

Shape shorthands: H, W: height and width in pixels; K: number of classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sar.data.label_files import read_color_mask
from sar.errors import InputError

Color = Sequence[int]  # r, g, b

_UNKNOWN = 0  # code of a colour without a class; class k has the code k + 1
_NUM_NAMED = 5  # unknown colours that an error message names


@dataclass(frozen=True, eq=False)
class ConvertedMask:
    """Label map that was converted from a colour mask.

    Attributes:
        ids: (H, W) uint8, or uint16 for more than 255 classes.
        pixels: (K + 1,) number of pixels of each class, and of ignored pixels.
    """

    ids: np.ndarray
    pixels: np.ndarray


class ColorMaskConverter:
    """Convert colour masks to class ids.

    Args:
        names: K class names.
        colors: K different colours.
        ignored_colors: the colours of pixels that become `ignore_label`.
        ignore_label: an id above the class ids: 255 or 65535.

    Raises:
        InputError: an ignored colour is also the colour of a class.
    """

    def __init__(
        self,
        names: Sequence[str],
        colors: Sequence[Color],
        ignored_colors: Sequence[Color],
        ignore_label: int,
    ) -> None:
        self._names, self._colors = names, np.array(colors, np.int64).reshape(-1, 3)
        self._ignored_code = len(names) + 1
        # Indexed by packed colour. The 2^24 zeros take no memory until a page is written.
        self._codes = np.zeros(2**24, np.int32)
        self._codes[_packed(self._colors)] = np.arange(len(names)) + 1
        for color in ignored_colors:
            packed = _packed(np.array(color))
            if 0 < (code := self._codes[packed]) < self._ignored_code:
                raise InputError(
                    f"The colour {tuple(color)} of --ignore is the colour of the class "
                    f'"{names[code - 1]}": remove it from --ignore, or from the class file.'
                )
            self._codes[packed] = self._ignored_code
        dtype = np.uint8 if ignore_label <= 255 else np.uint16
        self._ids = np.array([ignore_label, *range(len(names)), ignore_label], dtype)

    def convert(self, path: str | os.PathLike) -> ConvertedMask:
        """Read and convert a mask. Fully transparent pixels are ignored.

        Raises:
            InputError: as in `read_color_mask`, or the mask has a colour without a class.
        """
        rgba = read_color_mask(path)
        packed = rgba.view("<u4")[:, :, 0]
        codes = self._codes[packed & 0xFFFFFF]
        codes[rgba[:, :, 3] == 0] = self._ignored_code
        counts = np.bincount(codes.reshape(-1), minlength=self._ignored_code + 1)
        if counts[_UNKNOWN]:
            raise InputError(self._describe_unknown(path, rgba[codes == _UNKNOWN]))
        return ConvertedMask(self._ids[codes], counts[1:])

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
            "name them with --ignore."
        )


def _counted(pixels: int) -> str:
    return f"{pixels} {'pixel' if pixels == 1 else 'pixels'}"


def _packed(colors: np.ndarray) -> np.ndarray:
    """Return (...) numbers of 24 bits for (..., 3) colours, red in the lowest 8 bits."""
    return colors[..., 0] | colors[..., 1] << 8 | colors[..., 2] << 16
