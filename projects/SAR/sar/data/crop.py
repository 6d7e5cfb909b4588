"""Reads the crop of an image that a training sample shows, and decodes no more than it takes."""

import io
import os
import zlib

import numpy as np
from PIL import Image

from sar.data.augmentation import GeometricTransform
from sar.data.grey_range import GreyRange
from sar.data.labels import FULL_RANGE, decoded, opened, orientation
from sar.errors import InputError

_UPRIGHT = (None, 1)
# How much larger than the sample an image decoded at a reduced size still is, along both edges: as
# in Pillow's thumbnails. At 2, samples of photographs differ by less than one grey level of 255 on
# average from those of the whole image, half of what it changes to resize by Pillow's HAMMING.
_REDUCTION_GAP = 2


def read_crop(
    path: str | os.PathLike,
    transform: GeometricTransform,
    label_path: str | os.PathLike,
    grey_range: GreyRange = FULL_RANGE,
) -> np.ndarray:
    """Return `transform.apply_image(read_image(path, grey_range))`, decoding no more than needed.

    See `decode`: where a JPEG is reduced, as near as _REDUCTION_GAP says; in all other cases equal
    but for rounding, by 1.

    Args:
        path: the image file.
        transform: drawn for the file's size.
        label_path: where that size is from.
        grey_range: of grey images of 16 bits.

    Returns:
        (h, w, 3) uint8, RGB.

    Raises:
        InputError: the file is missing, truncated, no image, has neither 8 nor 16 bits, or has
            another size than its label.
    """
    return transform.apply_pillow(*decode(path, transform, label_path, grey_range))


def decode(
    path: str | os.PathLike,
    transform: GeometricTransform,
    label_path: str | os.PathLike,
    grey_range: GreyRange = FULL_RANGE,
) -> tuple[Image.Image, int]:
    """What `GeometricTransform.apply_pillow` is given: the part of an image that it needs, RGB.

    Of a PNG, the rows below the crop are not decoded, and not missed where the file is truncated.
    A JPEG that shrinks to a quarter or less is decoded at 1/2, 1/4 or 1/8 of its size. All others
    are decoded as they are. Arguments and errors are those of `read_crop`.
    """
    with opened(path, "image") as image:
        reduction = _reduce(image, transform)
        pixels = _upper_rows(image, path, transform, grey_range)
        if pixels is None:
            pixels = decoded(image, path, grey_range)
            if reduction == 1 and pixels.size != transform.source_shape[::-1]:
                height, width = transform.source_shape
                raise InputError(
                    f"The label {label_path} has {width} x {height} pixels, its image {path} "
                    f"{pixels.width} x {pixels.height} (width x height): replace the one that is "
                    "wrong."
                )
    return pixels, reduction


def _reduce(image: Image.Image, transform: GeometricTransform) -> int:
    """Has a JPEG decoded at a reduced size, where the transform shrinks enough; by which factor."""
    if image.format != "JPEG":
        return 1
    shrinks_by = min(
        source / scaled
        for source, scaled in zip(transform.source_shape, transform.scaled_shape, strict=True)
    )
    factor = next((f for f in (8, 4, 2) if f * _REDUCTION_GAP <= shrinks_by), 1)
    if factor == 1:
        return 1
    told, size = orientation(image), image.size
    if (size if told in (5, 6, 7, 8) else size[::-1]) != transform.source_shape:
        return 1  # decoded as it is, and found to be of the wrong size
    if told not in _UPRIGHT and any(edge % factor for edge in size):
        return 1  # the last block is smaller, and would come to lie first
    image.draft(None, (size[0] // factor, size[1] // factor))
    return factor


def _upper_rows(
    image: Image.Image,
    path: str | os.PathLike,
    transform: GeometricTransform,
    grey_range: GreyRange,
) -> Image.Image | None:
    """The decoded rows of a PNG that the transform needs; None where that is not possible."""
    rows = transform.rows_needed
    if (
        image.format != "PNG"
        or image.size != transform.source_shape[::-1]
        or rows == image.height
        or image.info.get("interlace")
        or image.is_animated
    ):
        return None
    # A decoder stops after the number of rows that the header states.
    with open(path, "rb") as file:
        signature, header, _ = file.read(12), bytearray(file.read(17)), file.read(4)
        header[8:12] = rows.to_bytes(4, "big")
        checksum = zlib.crc32(header).to_bytes(4, "big")
        content = io.BytesIO(signature + header + checksum + file.read())
    with Image.open(content) as upper:
        upper.load()
        # Which may also be told after the pixels.
        return decoded(upper, path, grey_range) if orientation(upper) in _UPRIGHT else None
