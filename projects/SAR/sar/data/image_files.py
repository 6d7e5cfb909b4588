"""Read images.

Shape shorthands: H, W: height and width in pixels, after the EXIF orientation is applied.
"""

import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sar.data.grey_range import GreyRange
from sar.data.pillow_files import (
    as_uint16,
    header_orientation,
    is_deep,
    num_pages,
    opened,
    raw_mode,
    swaps_sides,
    upright,
)
from sar.errors import InputError

FULL_RANGE = GreyRange()


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image with the values that its file stores, upright.

    Attributes:
        values: (H, W) uint16 for a grey image of 16 bits, otherwise (H, W, 3) uint8 RGB.
        lacks_low_bits: the file has 16 bits per colour, and Pillow reads only the upper 8.
        has_other_bands: the file has bands (except alpha) or pages that are not read.
    """

    values: np.ndarray
    lacks_low_bits: bool
    has_other_bands: bool


def read_image(path: str | os.PathLike, grey_range: GreyRange = FULL_RANGE) -> np.ndarray:
    """Read an image like detectron2's `read_image`, with its EXIF orientation applied.

    Grey images are repeated over the three channels, and an alpha channel is dropped. Grey images
    of 16 bits are scaled to 8 bits instead of clipped.

    Args:
        path: the image file.
        grey_range: the values of 16-bit grey images that become black and white.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is missing, truncated, not an image or of an unknown depth.
    """
    with opened(path, "image") as image:
        return np.asarray(decoded(image, path, grey_range))


def read_stored_image(path: str | os.PathLike) -> StoredImage:
    """Read an image without scaling its values.

    Raises:
        InputError: as in `read_image`.
    """
    with opened(path, "image") as image:
        layout, pages = raw_mode(image), num_pages(image, path)
        image.load()
        turned = upright(image)
        if is_deep(turned):
            values = as_uint16(np.asarray(turned), path, "image")
        else:
            values = np.asarray(_as_rgb(turned, path))
        return StoredImage(
            values,
            lacks_low_bits=values.ndim == 3 and ";16" in layout,
            has_other_bands=image.format == "TIFF" and ("X" in layout or pages > 1),
        )


def read_image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return the (H, W) that `read_image` would give, from the header of the file alone.

    Raises:
        InputError: the file is missing or not an image.
    """
    with opened(path, "image") as image:
        width, height = image.size
        swaps = swaps_sides(header_orientation(image))
    return (width, height) if swaps else (height, width)


def decoded(
    image: Image.Image, path: str | os.PathLike, grey_range: GreyRange = FULL_RANGE
) -> Image.Image:
    """Return an opened image with its pixels as `read_image` describes them: upright, 8-bit RGB.

    Args:
        path: the file, for errors.

    Raises:
        InputError: floating-point numbers, or values of more than 16 bits.
    """
    image.load()
    turned = upright(image)
    if is_deep(turned):
        grey = as_uint16(np.asarray(turned), path, "image")
        turned = Image.fromarray(grey_range.to_8_bits(grey))
    return _as_rgb(turned, path)


def _as_rgb(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    if image.mode == "F":
        raise InputError(
            f"Image {path} holds floating-point numbers, whose range is unknown: "
            "convert it to 8 or 16 bits."
        )
    return image if image.mode == "RGB" else image.convert("RGB")
