"""Reading images and label maps, with an error that names the file where one cannot be read.

A label map holds class ids. A colour mask, which annotation tools export, holds the colours of the
classes instead; tools/convert_labels.py makes label maps of colour masks.

Shape shorthands: H, W: height and width in pixels, after the EXIF orientation is applied.
"""

import math
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from sar.data.grey_range import GreyRange
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
# GDAL writes three bands as one of grey and two others by default. Pillow knows such a layout if it
# is in this table: byte order, 1 for "black is zero", unsigned, order of the bits, bits of each
# band, and the kinds of the other bands.
for _order, _deep_mode in ((b"II", "RGB;16L"), (b"MM", "RGB;16B")):
    for _bits, _mode in ((8, "RGB"), (16, _deep_mode)):
        _layout = (_order, 1, (1,), 1, (_bits,) * 3, (0, 0))
        TiffImagePlugin.OPEN_INFO.setdefault(_layout, ("RGB", _mode))
# Images of more pixels are refused by default, since small files can claim to be huge.
MAX_PIXELS = 178_956_970
FULL_RANGE = GreyRange()
# Pillow stretches grey values of 2 and 4 bits to 0..255: what an id was multiplied by.
_GREY_STRETCH = {"L;2": 85, "L;4": 17}


class ColorMaskError(InputError):
    """A label holds colours instead of class ids.

    Attributes:
        finding: the message without the remedy.
    """

    # With one argument, so that loader processes can raise the error again.
    def __init__(self, finding: str, remedy: str = "") -> None:
        super().__init__(f"{finding} {remedy}".rstrip())
        self.finding = finding


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image as its file stores it, upright.

    Attributes:
        values: (H, W) uint16 of a grey image of 16 bits; (H, W, 3) uint8 RGB of all others.
        lacks_low_bits: a colour image of 16 bits, of which Pillow reads the upper 8 alone.
        has_other_bands: bands or pages that are not read, such as near infrared (not alpha).
    """

    values: np.ndarray
    lacks_low_bits: bool
    has_other_bands: bool


def read_image(path: str | os.PathLike, grey_range: GreyRange = FULL_RANGE) -> np.ndarray:
    """Read an image as detectron2's `read_image` does, its EXIF orientation applied.

    Grey images are repeated over the three channels, an alpha channel is dropped, and grey images
    of 16 bits are scaled to 8 bits (by default, 65535 becomes 255) rather than clipped.

    Args:
        path: the image file.
        grey_range: of grey images of 16 bits.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is missing, truncated, no image, or has neither 8 nor 16 bits.
    """
    with opened(path, "image") as image:
        return np.asarray(decoded(image, path, grey_range))


def read_stored_image(path: str | os.PathLike) -> StoredImage:
    """Read an image without scaling its values.

    Raises:
        InputError: as `read_image`.
    """
    with opened(path, "image") as image:
        raw_mode, num_pages = _raw_mode(image), _num_pages(image, path)
        image.load()
        upright = _upright(image)
        if _is_deep(upright):
            values = _as_uint16(np.asarray(upright), path, "image")
        else:
            values = np.asarray(_as_rgb(upright, path))
        return StoredImage(
            values,
            lacks_low_bits=values.ndim == 3 and ";16" in raw_mode,
            has_other_bands=image.format == "TIFF" and ("X" in raw_mode or num_pages > 1),
        )


def decoded(
    image: Image.Image, path: str | os.PathLike, grey_range: GreyRange = FULL_RANGE
) -> Image.Image:
    """Return an opened image's pixels: upright, RGB of 8 bits, as `read_image` says.

    Args:
        path: of the file, for errors.

    Raises:
        InputError: floating-point numbers, or values of more than 16 bits.
    """
    image.load()
    upright = _upright(image)
    if _is_deep(upright):
        grey = _as_uint16(np.asarray(upright), path, "image")
        upright = Image.fromarray(grey_range.to_8_bits(grey))
    return _as_rgb(upright, path)


def _raw_mode(image: Image.Image) -> str:
    """Return how Pillow calls the layout of the file's pixels, such as "RGB;16B", before `load`."""
    arguments = image.tile[0][3] if image.tile else ""
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _as_rgb(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    if image.mode == "F":
        raise InputError(
            f"Image {path} holds floating-point numbers, whose range is unknown: "
            "convert it to 8 or 16 bits."
        )
    return image if image.mode == "RGB" else image.convert("RGB")


def read_image_size(path: str | os.PathLike) -> tuple[int, int]:
    """The (H, W) that `read_image` would give, from the file's header alone.

    Raises:
        InputError: the file is missing or no image.
    """
    with opened(path, "image") as image:
        width, height = image.size
        # Asked for EXIF data that the header of a PNG does not have, Pillow decodes the image.
        if image.format != "PNG" or "exif" in image.info:
            if orientation(image) in _QUARTER_TURNS:
                width, height = height, width
    return height, width


def read_label(path: str | os.PathLike) -> np.ndarray:
    """Read a label map: the ids as they were written, whatever the file's depth or palette.

    Args:
        path: a single-channel file, grey (1, 2, 4, 8 or 16 bits) or with a palette, whose indices
            are the ids; or a file whose channels red, green and blue are equal.

    Returns:
        (H, W), uint8 or uint16.

    Raises:
        InputError: the file is missing, truncated, no image, of a lossy format, or has
            floating-point numbers, several pages, or bands that would not be read;
            `ColorMaskError` if it has colours.
    """
    return read_label_and_palette(path)[0]


def read_label_and_palette(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a label map and its palette.

    Returns:
        (H, W) ids, as `read_label`; and (N, 3) uint8, the colours of the ids 0 to N - 1, or None
        for a file without a palette.

    Raises:
        InputError: as `read_label`.
    """
    with opened(path, "label") as image:
        _refuse_lossy(image, path)
        _refuse_other_bands(image, path)
        raw_mode = _raw_mode(image)
        image.load()
        upright = _upright(image)
        palette = None
        if upright.mode == "P":
            palette = np.array(upright.getpalette("RGB"), np.uint8).reshape(-1, 3)
        ids = np.array(upright)
        if upright.mode in ("1", "L", "P"):
            return _as_stored(ids, raw_mode), palette
        if _is_deep(upright):
            return _as_uint16(ids, path, "label"), palette
        if upright.mode == "F":
            raise InputError(
                f"Label {path} holds floating-point numbers: write the class ids as whole numbers "
                "of 8 or 16 bits."
            )
        if ";16" in raw_mode:
            raise InputError(
                f"Label {path} has several bands of 16 bits, of which the upper 8 bits alone would "
                "be read: write the band of the class ids as a file of its own."
            )
        return _first_of_equal_channels(upright, path), palette


def _as_stored(ids: np.ndarray, raw_mode: str) -> np.ndarray:
    """Return (H, W) uint8, the numbers in the file: Pillow stretches them, or inverts a TIFF's.

    Args:
        raw_mode: such as "L;2IR", for 2 bits, inverted because 0 is white, bits in reverse order.
    """
    is_inverted = "I" in raw_mode.partition(";")[2]
    if ids.dtype == bool:
        return (ids != is_inverted).astype(np.uint8)
    if is_inverted:
        ids = 255 - ids
    stretch = _GREY_STRETCH.get(raw_mode[:3], 1)
    return ids if stretch == 1 else ids // np.uint8(stretch)


def read_color_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a colour mask, with its EXIF orientation applied.

    Args:
        path: an RGB or RGBA file, or one with a palette, whose colours are read.

    Returns:
        (H, W, 4) uint8 RGBA; alpha is 255 if the file has none.

    Raises:
        InputError: the file is missing, truncated, no image, of a lossy format, or has one channel.
    """
    with opened(path, "label") as image:
        _refuse_lossy(image, path)
        _refuse_other_bands(image, path)
        image.load()
        if image.mode in ("1", "L", "F") or _is_deep(image):
            raise InputError(
                f"The mask {path} has one channel and no colours, so its values may be class ids "
                "already: if they are, copy the file; if they are grey colours, write it as RGB."
            )
        return np.array(_upright(image).convert("RGBA"))


def _refuse_lossy(image: Image.Image, path: str | os.PathLike) -> None:
    if image.format in ("JPEG", "MPO", "WEBP"):
        raise InputError(
            f"Label {path} is a {image.format} file, whatever its name: lossy compression changes "
            "ids and colours. Export it again as PNG."
        )


def _refuse_other_bands(image: Image.Image, path: str | os.PathLike) -> None:
    if (number := _num_pages(image, path)) > 1:
        raise InputError(
            f"Label {path} has {number} pages, of which only the first would be read: write the "
            "page of the class ids as a file of its own."
        )
    if image.format == "TIFF" and "X" in _raw_mode(image):
        raise InputError(
            f"Label {path} has more bands than would be read: write the band of the class ids as "
            "a file of its own, such as with: gdal_translate -b 1 INPUT OUTPUT"
        )


def _num_pages(image: Image.Image, path: str | os.PathLike) -> int:
    """Return the number of pages, without overviews (smaller copies of a page) and masks."""
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    if not image.tag_v2.next:
        return 1
    return sum(not tags.get(_SUBFILE_TYPE, 0) & _OVERVIEW_OR_MASK for tags in _directories(path))


def _directories(path: str | os.PathLike) -> Iterator[TiffImagePlugin.ImageFileDirectory_v2]:
    """Yield the tags of each page of a TIFF: the same object, filled again."""
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


def how_to_convert(path: str | os.PathLike) -> str:
    """Return what labels need, and the command that converts colour masks to labels.

    The command converts the labels of the folder that holds the mask and a classes.txt. Without a
    classes.txt, it converts the mask's own folder, and CLASSES stands for the class file.

    Args:
        path: a colour mask.
    """
    folder = Path(os.path.abspath(path)).parent
    options = {"--labels": folder, "--classes": "CLASSES", "--output": f"{folder}_ids"}
    for root in (folder, *folder.parents):
        if (classes := root / "classes.txt").is_file():
            part = folder.relative_to(root).parts[:1]  # such as labels/
            output = Path(f"{root}_ids", *part)
            options = {"--labels": root.joinpath(*part), "--classes": classes, "--output": output}
            break
    words = [str(word) for option in options.items() for word in option]
    return (
        "Labels need class ids (0 to the number of classes - 1) as an 8- or 16-bit single-channel "
        "PNG, not colours. To convert the colours of the class file to ids, run: "
        f"{shlex.join(['python', 'tools/convert_labels.py', *words])}"
    )


def _first_of_equal_channels(image: Image.Image, path: str | os.PathLike) -> np.ndarray:
    """Return (H, W) uint8 ids that are repeated over red, green and blue."""
    if image.mode in ("LA", "RGB", "RGBA"):
        values = np.asarray(image)
        ids = values[:, :, 0]
        colors = values[:, :, :3] if image.mode != "LA" else ids[:, :, None]
        is_opaque = image.mode == "RGB" or (values[:, :, -1] == 255).all()
        if is_opaque and (colors == ids[:, :, None]).all():
            return ids.copy()
    found = ""
    if image.mode == "RGB" and (counts := image.getcolors()):  # of at most 256 colours
        found = f" Its colours are {listed(sorted(color for _, color in counts))}."
    raise ColorMaskError(
        f"Label {path} has the channels {'+'.join(image.getbands())}, whose values differ, where "
        f"one channel of class ids is needed.{found}",
        how_to_convert(path),
    )


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
    if os.path.exists(path) and not os.path.isfile(path):  # to open a pipe would wait for ever
        raise InputError(
            f"The {what} {path} is a folder, a pipe or a device, not a file: remove or rename it."
        )
    if not os.path.isfile(path):
        raise InputError(f"The {what} {path} is not there: restore it, or correct its path.")
    try:
        with Image.open(path) as image:
            if image.format == "TIFF" and image.tag_v2.get(_EXIF_ORIENTATION) in _QUARTER_TURNS:
                # Pillow maps uncompressed files into memory by their name, but with the sides
                # swapped already, which mixes up the rows.
                image.filename = ""
            yield image
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"The {what} {path} has more pixels than are decoded ({error}): set INPUT.MAX_PIXELS "
            "to their number if you trust the file, or cut it into tiles."
        ) from error
    except UnidentifiedImageError as error:
        if reason := _unusual_tiff(path, what):
            raise InputError(f"The {what} {path} {reason}") from error
        raise _damaged(path, what, error) from error
    # A damaged file makes decoders raise nearly anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise _damaged(path, what, error) from error


def _damaged(path: str | os.PathLike, what: str, error: Exception) -> InputError:
    return InputError(
        f"The {what} {path} cannot be read (truncated, damaged, or no image): {error}. "
        "Copy it again from its source, or remove it from the data set."
    )


def _unusual_tiff(path: str | os.PathLike, what: str) -> str | None:
    """Return what a TIFF holds that Pillow does not decode, and what to do; None if unknown."""
    try:
        tags = next(_directories(path))
        bands, bits = int(tags.get(_SAMPLES_PER_PIXEL, 1)), tags.get(_BITS_PER_SAMPLE, (1,))[0]
        kind = _SAMPLE_FORMATS.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "")
    # Not a TIFF, or a damaged one: decoders raise nearly anything.
    except Exception:
        return None
    advice = "convert it to 8 or 16 bits"
    if bands > 1:
        needed = "the band of the class ids" if what == "label" else "the one or three bands to use"
        options = "-b 1" if what == "label" else "-b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB"
        advice = (
            f"write {needed}, of 8 or 16 bits, as a file of its own, such as with: gdal_translate "
            f"{options} INPUT OUTPUT"
        )
    return f"has {bands} {'band' if bands == 1 else 'bands'} of {bits} bits{kind}: {advice}."


def allow_pixels(number: int) -> None:
    """Let Pillow decode images of up to so many pixels, in this process.

    The limit is never lowered: Pillow's own (MAX_PIXELS) and that of another caller stay.

    Raises:
        InputError: the number is less than 1.
    """
    if number < 1:
        raise InputError(f"INPUT.MAX_PIXELS (or --max-pixels) is {number}, expected 1 or more.")
    if Image.MAX_IMAGE_PIXELS is not None:  # None: no limit
        # Pillow refuses images of more than twice as many.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, math.ceil(number / 2))


def swaps_sides(orientation: int) -> bool:
    """Whether an EXIF orientation swaps width and height."""
    return orientation in _QUARTER_TURNS


def exif_orientation(path: str | os.PathLike) -> int:
    """Return the EXIF orientation of an image or a label, 1 (upright) to 8, from the header alone.

    Raises:
        InputError: the file is missing or no image.
    """
    with opened(path, "file") as image:
        if image.format == "TIFF":
            found = image.tag_v2.get(_EXIF_ORIENTATION)
        elif image.format == "PNG" and "exif" not in image.info:
            found = None
        else:
            found = orientation(image)
    return found if found in _TRANSPOSITIONS else 1


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
