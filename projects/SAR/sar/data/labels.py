"""Reading images and label maps, with an error that names the file where one cannot be read.

Shape shorthands: H, W: height and width in pixels, after the EXIF orientation is applied.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from sar.errors import InputError, listed

_EXIF_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow stretches grey PNGs of 2 and 4 bits to 0..255: what an id was multiplied by.
_GREY_STRETCH = {"L;2": 85, "L;4": 17}


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Reads an image as detectron2's `read_image` does, its EXIF orientation applied.

    Grey images are repeated over the three channels, an alpha channel is dropped, and 16-bit
    images are scaled to 8 bits (65535 becomes 255) rather than clipped.

    Args:
        path: the image file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is missing, truncated, no image, or has neither 8 nor 16 bits.
    """
    with opened(path, "image") as image:
        return np.asarray(decoded(image, path))


def decoded(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    """An opened image's pixels: upright, RGB of 8 bits, as `read_image` says.

    Args:
        path: of the file, for errors.

    Raises:
        InputError: floating-point numbers, or values of more than 16 bits.
    """
    image.load()
    upright = _upright(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        grey = _as_uint16(np.asarray(upright), path, "image")
        upright = Image.fromarray(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif upright.mode == "F":
        raise InputError(
            f"Image {path} holds floating-point numbers, whose range is unknown: "
            "convert it to 8 or 16 bits."
        )
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def read_image_size(path: str | os.PathLike) -> tuple[int, int]:
    """The (H, W) that `read_image` would give, from the file's header alone.

    Raises:
        InputError: the file is missing or no image.
    """
    with opened(path, "image") as image:
        width, height = image.size
        # Asked for EXIF data that the header of a PNG does not have, Pillow decodes the image.
        if image.format != "PNG" or "exif" in image.info:
            if orientation(image) in (5, 6, 7, 8):
                width, height = height, width
    return height, width


def read_label(path: str | os.PathLike) -> np.ndarray:
    """Reads a label map: the ids as they were written, whatever the PNG's depth or palette.

    Args:
        path: a single-channel file, grey (1, 2, 4, 8 or 16 bits) or with a palette, whose indices
            are the ids.

    Returns:
        (H, W), uint8 or uint16.

    Raises:
        InputError: the file is missing, truncated, no image, of a lossy format, or has more than
            one channel.
    """
    with opened(path, "label") as image:
        if image.format in ("JPEG", "MPO", "WEBP"):
            raise InputError(
                f"Label {path} is a {image.format} file, whatever its name: lossy compression "
                "changes class ids: write labels as PNG."
            )
        stretch = _GREY_STRETCH.get(image.tile[0][3], 1) if image.format == "PNG" else 1
        image.load()
        upright = _upright(image)
        mode = upright.mode
        if mode not in ("1", "L", "P", "I") and not mode.startswith("I;16"):
            raise InputError(
                f"Label {path} has the channels {'+'.join(upright.getbands())} where one channel "
                "of class ids is needed: write the ids (0 to the number of classes - 1) as an 8- "
                "or 16-bit single-channel PNG, not their colours."
            )
        ids = np.array(upright)
    if mode in ("1", "L", "P"):
        ids = ids.astype(np.uint8, copy=False)
        return ids if stretch == 1 else ids // np.uint8(stretch)
    return _as_uint16(ids, path, "label")


def read_truth(path: str | os.PathLike, num_classes: int, ignore_label: int) -> np.ndarray:
    """Reads a label map of which every pixel is of a class, or ignored.

    Args:
        path: as for `read_label`.
        num_classes: K; classes have the ids 0 to K - 1.
        ignore_label: the id of pixels without a class.

    Returns:
        (H, W), uint8 or uint16.

    Raises:
        InputError: as `read_label`, or ids that are neither classes nor `ignore_label`.
    """
    label = read_label(path)
    outside = label >= num_classes
    outside &= label != ignore_label
    if outside.any():
        # A photograph that is given as a label has all ids.
        ids = listed(np.unique(label[outside]), 10)
        raise InputError(
            f"The label {path} has the ids {ids}, which are neither classes (0 to "
            f"{num_classes - 1}) nor the ignore id {ignore_label}: correct the file, or the data "
            "set's classes and MODEL.SEM_SEG_HEAD.NUM_CLASSES; tools/check_dataset.py lists all "
            "such files."
        )
    return label


@contextmanager
def opened(path: str | os.PathLike, what: str) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet.

    Args:
        what: "image" or "label".

    Raises:
        InputError: what Pillow raises, here or within the `with`, naming the file.
    """
    if not os.path.isfile(path):
        raise InputError(f"The {what} {path} is not there: restore it, or correct its path.")
    try:
        with Image.open(path) as image:
            yield image
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"The {what} {path} is too large ({error}): cut it into tiles.") from error
    # A damaged file makes decoders raise nearly anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise InputError(
            f"The {what} {path} cannot be read (truncated, damaged, or no image): {error}. "
            "Copy it again from its source, or remove it from the data set."
        ) from error


def orientation(image: Image.Image) -> int | None:
    """The EXIF orientation that is still to be applied, 1 to 8; None: none is told."""
    # Pillow itself turns TIFFs upright, size and pixels.
    if image.format == "TIFF":
        return None
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    # Damaged EXIF data in an image that is otherwise sound: as in detectron2, no orientation.
    except Exception:
        return None


def _upright(image: Image.Image) -> Image.Image:
    method = _TRANSPOSITIONS.get(orientation(image))
    return image if method is None else image.transpose(method)


def _as_uint16(values: np.ndarray, path: str | os.PathLike, what: str) -> np.ndarray:
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise InputError(
            f"The {what} {path} has values from {values.min()} to {values.max()}: "
            "write it with 8 or 16 bits (0 to 65535)."
        )
    return values.astype(np.uint16)
