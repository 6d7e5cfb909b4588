"""Warn if the images of a data set lose information when they become 8 bits."""

from dataclasses import dataclass

import numpy as np

from sar.data.grey_range import MAX_VALUE, GreyRange
from sar.data.image_files import StoredImage

# Warn below this number of the 256 grey levels.
_FEW_LEVELS = 64
# Single images may have low contrast. Warn if a tenth of the images has fewer levels than this.
_FEW_LEVELS_OF_AN_IMAGE = 32
_MANY_IMAGES = 0.1
# Shares of the pixels: at both ends, which may be outliers; and clipped by the grey range.
_OUTLIERS = 0.001
_MANY_CLIPPED = 0.05


@dataclass(frozen=True, eq=False)
class ImageUse:
    """The values of one image that `GreyUse` needs.

    Attributes:
        counts: (N,) number of pixels of each value of an image of 16 bits; None for other images.
        is_color: the counts are for the upper 8 bits of an image of 3 x 16 bits.
        has_other_bands: as in StoredImage.
    """

    counts: np.ndarray | None
    is_color: bool
    has_other_bands: bool

    @classmethod
    def of(cls, image: StoredImage) -> "ImageUse":
        is_deep = image.lacks_low_bits or image.values.dtype == np.uint16
        counts = np.bincount(image.values.reshape(-1)) if is_deep else None
        return cls(counts, image.lacks_low_bits, image.has_other_bands)


class GreyUse:
    """Collect, image by image, which part of their range 16-bit images use.

    Args:
        grey_range: the values that become black and white.
    """

    def __init__(self, grey_range: GreyRange) -> None:
        self._grey_range = grey_range
        self._num_images = {"grey": 0, "colour": 0}
        self._counts = {
            "grey": np.zeros(MAX_VALUE + 1, np.int64),
            "colour": np.zeros(256, np.int64),
        }
        self._narrow: dict[str, list[str]] = {"grey": [], "colour": []}
        self._with_other_bands: list[str] = []

    def add(self, file: str, image: ImageUse) -> None:
        """Add an image of the data set."""
        if image.has_other_bands:
            self._with_other_bands.append(file)
        if image.counts is not None:
            kind = "colour" if image.is_color else "grey"
            self._num_images[kind] += 1
            self._counts[kind][: len(image.counts)] += image.counts
            if self._num_levels(kind, image.counts) < _FEW_LEVELS_OF_AN_IMAGE:
                self._narrow[kind].append(file)

    def warnings(self) -> list[str]:
        """Return a sentence about each loss: grey levels, colour levels, pixels, bands."""
        warnings = self._grey_warnings() if self._num_images["grey"] else []
        if self._num_images["colour"]:
            warnings += self._color_warnings()
        if self._with_other_bands:
            warnings.append(
                f"{len(self._with_other_bands)} images, such as {self._with_other_bands[0]}, have "
                "more bands or pages than are read (the first, or red, green and blue). If the "
                "model should see other bands, write them as files of three bands."
            )
        return warnings

    def _grey_warnings(self) -> list[str]:
        counts, current = self._counts["grey"], self._grey_range
        low, high = _part_in_use(counts)
        num_levels = self._num_levels("grey", counts)
        clipped = 1 - counts[current.black : current.white + 1].sum() / counts.sum()
        if num_levels >= _FEW_LEVELS and clipped <= _MANY_CLIPPED:
            return self._narrow_warnings("grey", "become")
        black = min(low, MAX_VALUE - 1)
        loss = f"become {num_levels} of 256 grey levels"
        if num_levels >= _FEW_LEVELS:
            loss = f"lie outside the range to {clipped:.0%}"
        return [
            f"The {self._num_images['grey']} grey images of 16 bits use the values {low} to "
            f"{high}, which {loss} with INPUT.BLACK_POINT {current.black} and INPUT.WHITE_POINT "
            f"{current.white}: set INPUT.BLACK_POINT {black} INPUT.WHITE_POINT "
            f"{max(high, black + 1)}."
        ]

    def _color_warnings(self) -> list[str]:
        num_levels = self._num_levels("colour", self._counts["colour"])
        if num_levels >= _FEW_LEVELS:
            return self._narrow_warnings("colour", "keep, in the upper 8 bits that are read,")
        return [
            f"The {self._num_images['colour']} colour images of 16 bits use few values. Only the "
            f"upper 8 bits are read, so {num_levels} of 256 levels are left: scale the images and "
            "write them with 8 bits."
        ]

    def _narrow_warnings(self, kind: str, become: str) -> list[str]:
        """Return a sentence if all images together use the range, but many single ones do not."""
        narrow, number = self._narrow[kind], self._num_images[kind]
        if len(narrow) < _MANY_IMAGES * number:
            return []
        return [
            f"{len(narrow)} of {number} {kind} images of 16 bits, such as {narrow[0]}, {become} "
            f"fewer than {_FEW_LEVELS_OF_AN_IMAGE} of 256 levels, unlike the others: if they have "
            "another scale, write all images with one scale."
        ]

    def _num_levels(self, kind: str, counts: np.ndarray) -> int:
        """Return the number of the 256 levels between the lowest and the highest value in use."""
        used = np.array(_part_in_use(counts), np.uint16)
        return int(np.ptp(self._grey_range.to_8_bits(used) if kind == "grey" else used)) + 1


def _part_in_use(counts: np.ndarray) -> tuple[int, int]:
    """Return the lowest and the highest value of the pixels, without outliers."""
    below = np.cumsum(counts)
    shares = np.array([_OUTLIERS, 1 - _OUTLIERS]) * below[-1]
    low, high = np.searchsorted(below, shares, side="left").tolist()
    return low, high
