"""Open image and label files with Pillow: clear errors, EXIF orientation, bands and pages.

`sar.data.image_files` and `sar.data.label_files` read the pixels.
"""

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from sar.errors import InputError

# Default limit on the pixels of an image, because small files can claim to be huge.
MAX_PIXELS = 178_956_970

# Pillow warns of images with half as many pixels as it refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

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
_QUARTER_TURNS = (5, 6, 7, 8)
# Tags of TIFF.
_SUBFILE_TYPE, _BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 254, 258, 277, 339
_OVERVIEW_OR_MASK = 0b101  # bits of the subfile type
_SAMPLE_FORMATS = {
    2: " with sign",
    3: " (floating-point numbers)",
    5: " (complex)",
    6: " (complex)",
}
# GDAL marks three bands as one grey band and two others by default. Pillow refuses this layout
# unless its table contains it, and has no other way to add a layout. The key is: byte order,
# 1 for "black is zero", unsigned, order of the bits, bits of each band, kinds of the other bands.
for _order, _deep_mode in ((b"II", "RGB;16L"), (b"MM", "RGB;16B")):
    for _bits, _mode in ((8, "RGB"), (16, _deep_mode)):
        _layout = (_order, 1, (1,), 1, (_bits,) * 3, (0, 0))
        TiffImagePlugin.OPEN_INFO.setdefault(_layout, ("RGB", _mode))


@contextmanager
def opened(path: str | os.PathLike, what: str) -> Iterator[Image.Image]:
    """Yield an image whose pixels are not decoded yet.

    Args:
        what: "image" or "label", for errors.

    Raises:
        InputError: Pillow raised an error, here or in the `with` block. The message names the file.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise InputError(
            f"The {what} {path} is a folder, a pipe or a device, not a file: remove or rename it."
        )
    if not os.path.isfile(path):
        raise InputError(f"The {what} {path} is not there: restore it, or correct its path.")
    try:
        with Image.open(path) as image:
            if image.format == "TIFF" and image.tag_v2.get(_EXIF_ORIENTATION) in _QUARTER_TURNS:
                # Pillow maps an uncompressed file into memory if it knows the file's name. It has
                # swapped the sides already, so the rows would be mixed up.
                image.filename = ""
            yield image
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"The {what} {path} has more pixels than are decoded ({error}): set INPUT.MAX_PIXELS "
            "(or --max-pixels) to their number if you trust the file, or cut it into tiles."
        ) from error
    # A damaged file can make a decoder raise nearly any error: OSError, SyntaxError, struct.error.
    except Exception as error:
        if isinstance(error, UnidentifiedImageError) and (reason := _unusual_tiff(path, what)):
            raise InputError(f"The {what} {path} {reason}") from error
        raise InputError(
            f"The {what} {path} cannot be read (truncated, damaged, or no image): {error}. "
            "Copy it again from its source, or remove it from the data set."
        ) from error


def allow_pixels(number: int) -> None:
    """Let Pillow decode images of up to `number` pixels in this process.

    This never lowers the limit that Pillow has.

    Raises:
        InputError: the number is less than 1.
    """
    if number < 1:
        raise InputError(f"INPUT.MAX_PIXELS (or --max-pixels) is {number}, expected 1 or more.")
    if Image.MAX_IMAGE_PIXELS is not None:  # None: no limit
        # Pillow raises an error for more than twice this number.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, math.ceil(number / 2))


def exif_orientation(path: str | os.PathLike) -> int:
    """Return the EXIF orientation of an image or a label, 1 (upright) to 8, from the header alone.

    Raises:
        InputError: the file is missing or not an image.
    """
    with opened(path, "file") as image:
        if image.format == "TIFF":
            found = image.tag_v2.get(_EXIF_ORIENTATION)
        else:
            found = header_orientation(image)
    return found if found in _TRANSPOSITIONS else 1


def header_orientation(image: Image.Image) -> int | None:
    """Return the same as `orientation`, but never decode the pixels."""
    if image.format != "PNG":
        return orientation(image)
    # A PNG may have EXIF data after its pixels, and its own getexif decodes the image to find them.
    with suppress(Exception):  # as in `orientation`
        return Image.Image.getexif(image).get(_EXIF_ORIENTATION)
    return None


def orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation that must still be applied, 1 to 8, or None if there is none."""
    if image.format == "TIFF":  # Pillow turns it upright
        return None
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    # The EXIF data may be damaged although the image is sound. Detectron2 ignores them, too.
    except Exception:
        return None


def swaps_sides(orientation: int | None) -> bool:
    """Return if an EXIF orientation swaps width and height."""
    return orientation in _QUARTER_TURNS


def upright(image: Image.Image) -> Image.Image:
    """Return a decoded image with its EXIF orientation applied."""
    method = _TRANSPOSITIONS.get(orientation(image))
    return image if method is None else image.transpose(method)


def turned_upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to (H, W) values."""
    method = _TRANSPOSITIONS.get(orientation)
    return values if method is None else np.array(Image.fromarray(values).transpose(method))


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for the pixel layout of the file, such as "RGB;16B".

    Call this before `load`, which discards the name.
    """
    arguments = image.tile[0][3] if image.tile else ""
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def is_deep(image: Image.Image) -> bool:
    """Return if a grey image has more than 8 bits."""
    return image.mode == "I" or image.mode.startswith("I;16")


def as_uint16(values: np.ndarray, path: str | os.PathLike, what: str) -> np.ndarray:
    """Return whole numbers as uint16.

    Args:
        path, what: the file and its kind, for errors.

    Raises:
        InputError: a value does not fit into 16 bits.
    """
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise InputError(
            f"The {what} {path} has values from {values.min()} to {values.max()}: "
            "write it with 8 or 16 bits (0 to 65535)."
        )
    return values.astype(np.uint16)


def num_pages(image: Image.Image, path: str | os.PathLike) -> int:
    """Return the number of pages, without overviews (smaller copies of a page) and masks."""
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    if not image.tag_v2.next:
        return 1
    return sum(not tags.get(_SUBFILE_TYPE, 0) & _OVERVIEW_OR_MASK for tags in _directories(path))


def _directories(path: str | os.PathLike) -> Iterator[TiffImagePlugin.ImageFileDirectory_v2]:
    """Yield the tags of each page of a TIFF. The yielded object is always the same."""
    with open(path, "rb") as file:
        header = file.read(8)
        header += file.read(8 if header[2] == 43 else 0)  # a BigTIFF
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        offsets = set()
        while tags.next and tags.next not in offsets:
            offsets.add(tags.next)
            file.seek(tags.next)
            tags.load(file)
            yield tags


def _unusual_tiff(path: str | os.PathLike, what: str) -> str | None:
    """Return why Pillow cannot decode a TIFF, and what to do; None if unknown."""
    try:
        tags = next(_directories(path))
        bands, bits = int(tags.get(_SAMPLES_PER_PIXEL, 1)), tags.get(_BITS_PER_SAMPLE, (1,))[0]
        kind = _SAMPLE_FORMATS.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "")
    # Not a TIFF, or a damaged one, which can raise nearly any error.
    except Exception:
        return None
    advice = "convert it to 8 or 16 bits"
    if bands > 1:
        needed = "the band of the class ids" if what == "label" else "the one or three bands to use"
        options = "-b 1" if what == "label" else "-b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB"
        advice = (
            f"write {needed} with 8 or 16 bits to a separate file, for example with: "
            f"gdal_translate {options} INPUT OUTPUT"
        )
    return f"has {bands} {'band' if bands == 1 else 'bands'} of {bits} bits{kind}: {advice}."
