"""Read the part of an image that a training sample shows.

A large JPEG that shrinks a lot is decoded at a reduced size, which is several times faster.
"""

import os

import numpy as np
from PIL import Image

from sar.data.augmentation import GeometricTransform
from sar.data.grey_range import GreyRange
from sar.data.image_files import FULL_RANGE, decoded
from sar.data.pillow_files import opened, orientation, swaps_sides
from sar.errors import InputError

# A JPEG decoded at a reduced size stays at least this many times larger than the sample, along both
# edges, as in Pillow's thumbnails. Samples of photographs then differ by less than one grey level
# of 255 on average.
_REDUCTION_GAP = 2


def read_crop(
    path: str | os.PathLike,
    transform: GeometricTransform,
    label_path: str | os.PathLike,
    grey_range: GreyRange = FULL_RANGE,
) -> np.ndarray:
    """Return `transform.apply_image(read_image(path, grey_range))`.

    The result is equal up to rounding by 1, except for JPEGs that `decode` reduces.

    Args:
        path: the image file.
        transform: was drawn for the size of the label.
        label_path: named in the error if the sizes differ.
        grey_range: for grey images of 16 bits.

    Returns:
        (h, w, 3) uint8, RGB.

    Raises:
        InputError: the file is missing, truncated, not an image or of an unknown depth, or its size
            differs from the label's.
    """
    return transform.apply_pillow(*decode(path, transform, label_path, grey_range))


def decode(
    path: str | os.PathLike,
    transform: GeometricTransform,
    label_path: str | os.PathLike,
    grey_range: GreyRange = FULL_RANGE,
) -> tuple[Image.Image, int]:
    """Return the decoded RGB image and its reduction, as `transform.apply_pillow` takes them.

    A JPEG that shrinks to a quarter or less is decoded at 1/2, 1/4 or 1/8 of its size. Arguments
    and errors are the same as in `read_crop`.
    """
    with opened(path, "image") as image:
        reduction = _reduce(image, transform)
        pixels = decoded(image, path, grey_range)
    if reduction == 1 and pixels.size != transform.source_shape[::-1]:
        height, width = transform.source_shape
        raise InputError(
            f"The label {label_path} has {width} x {height} pixels, its image {path} "
            f"{pixels.width} x {pixels.height} (width x height): replace the one that is wrong."
        )
    return pixels, reduction


def _reduce(image: Image.Image, transform: GeometricTransform) -> int:
    """Set the size at which a JPEG will be decoded, and return the factor: 1, 2, 4 or 8."""
    if image.format != "JPEG":
        return 1
    shrinks_by = min(
        source / scaled
        for source, scaled in zip(transform.source_shape, transform.scaled_shape, strict=True)
    )
    factor = next((f for f in (8, 4, 2) if f * _REDUCTION_GAP <= shrinks_by), 1)
    turn, size = orientation(image), image.size
    if factor == 1 or (size if swaps_sides(turn) else size[::-1]) != transform.source_shape:
        return 1  # `decode` reports a wrong size
    if turn not in (None, 1) and any(edge % factor for edge in size):
        return 1  # the smaller last block would come first after the turn
    image.draft(None, (size[0] // factor, size[1] // factor))
    return factor
