"""Read label maps and colour masks.

A label map holds class ids. A colour mask, which annotation tools export, holds the colour of the
class at each pixel instead. tools/import_dataset.py converts colour masks to label maps.

Shape shorthands: H, W: height and width in pixels, after the EXIF orientation is applied.
"""

import os
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from sar.cli import call_of
from sar.data.clouds import is_cloud, read_cloud_label
from sar.data.pillow_files import as_uint16, is_deep, num_pages, opened, raw_mode, upright
from sar.errors import InputError, listed

# Pillow stretches grey values of 2 and 4 bits to 0..255, by these factors.
_GREY_STRETCH = {"L;2": 85, "L;4": 17}


class ColorMaskError(InputError):
    """Error for a label that holds colours instead of class ids.

    Attributes:
        finding: the message without the remedy.
    """

    # `remedy` is optional, so that the error can be pickled between loader processes.
    def __init__(self, finding: str, remedy: str = "") -> None:
        super().__init__(f"{finding} {remedy}".rstrip())
        self.finding = finding


def read_label(path: str | os.PathLike) -> np.ndarray:
    """Read the ids of a label map as they were written, for any depth or palette.

    Args:
        path: a file with one channel, grey (1, 2, 4, 8 or 16 bits) or with a palette, whose indices
            are the ids. A file with equal red, green and blue channels is also read, and a point
            cloud, whose label has one row.

    Returns:
        (H, W), uint8 or uint16.

    Raises:
        InputError: the file is missing, truncated, not an image or in a lossy format; or it has
            floating-point numbers, several pages, or bands that would not be read.
        ColorMaskError: the file has colours.
    """
    return read_label_and_palette(path)[0]


def read_label_and_palette(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a label map and its palette.

    Returns:
        (H, W) ids, as in `read_label`; and (N, 3) uint8, the colours of the ids 0 to N - 1, or None
        for a file without a palette.

    Raises:
        InputError: as in `read_label`.
    """
    if is_cloud(path):
        return _as_label_map(read_cloud_label(path), path), None
    with opened(path, "label") as image:
        _refuse_lossy(image, path)
        _refuse_other_bands(image, path)
        layout = raw_mode(image)
        image.load()
        turned = upright(image)
        palette = None
        if turned.mode == "P":
            palette = np.array(turned.getpalette("RGB"), np.uint8).reshape(-1, 3)
        ids = np.array(turned)
        if turned.mode in ("1", "L", "P"):
            return _as_stored(ids, layout), palette
        if is_deep(turned):
            return as_uint16(ids, path, "label"), palette
        if turned.mode == "F":
            raise InputError(
                f"Label {path} holds floating-point numbers: write the class ids as whole numbers "
                "of 8 or 16 bits."
            )
        if ";16" in layout:
            raise InputError(
                f"Label {path} has several bands of 16 bits, and only their upper 8 bits would be "
                "read: write the band of the class ids to a separate file."
            )
        return _first_of_equal_channels(turned, path), palette


def read_truth(
    path: str | os.PathLike,
    num_classes: int,
    ignore_label: int,
    *,
    cloud_label: np.ndarray | None = None,
) -> np.ndarray:
    """Read a label map, and check that each pixel has a class or is ignored.

    Args:
        path: as in `read_label`.
        num_classes: K; the classes have the ids 0 to K - 1.
        ignore_label: the id of pixels without a class.
        cloud_label: (N,) int64, the labels of the cloud `path` if it was read before. They are
            checked, and the file is not read again.

    Returns:
        (H, W), uint8 or uint16.

    Raises:
        InputError: as in `read_label`, or an id is not a class and not `ignore_label`.
    """
    label = read_label(path) if cloud_label is None else _as_label_map(cloud_label, path)
    outside = label >= num_classes
    outside &= label != ignore_label
    if outside.any():
        # A photograph that is given as a label has many ids.
        ids = listed(np.unique(label[outside]), 10)
        raise InputError(
            f"The label {path} has the ids {ids}, which are neither classes (0 to "
            f"{num_classes - 1}) nor the ignore id {ignore_label}. Correct the file, or the "
            "classes of the data set and MODEL.SEM_SEG_HEAD.NUM_CLASSES. tools/check_dataset.py "
            "lists all such files."
        )
    return label


def read_color_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a colour mask, with its EXIF orientation applied.

    Args:
        path: an RGB or RGBA file, or a file with a palette, whose colours are read.

    Returns:
        (H, W, 4) uint8 RGBA; alpha is 255 if the file has none.

    Raises:
        InputError: the file is missing, truncated, not an image or in a lossy format; or it has
            one channel, several pages, or bands that would not be read.
    """
    with opened(path, "label") as image:
        _refuse_lossy(image, path)
        _refuse_other_bands(image, path)
        image.load()
        if image.mode in ("1", "L", "F") or is_deep(image):
            raise InputError(
                f"The mask {path} has one channel and no colours. If its values are class ids "
                "already, copy the file. If they are grey colours, write it as RGB."
            )
        return np.array(upright(image).convert("RGBA"))


def how_to_convert(path: str | os.PathLike) -> str:
    """Return what labels need, and the command that converts a data set with colour masks.

    The command reads the nearest folder above the mask that has a classes.txt. Without one, it
    reads the folder above the folder of labels, and the word CLASSES stands for the class file.

    Args:
        path: a colour mask.
    """
    folder = Path(os.path.abspath(path)).parent
    root = next(
        (root for root in (folder, *folder.parents) if (root / "classes.txt").is_file()), None
    )
    options = []
    if root is None:
        parents = (found.parent for found in (folder, *folder.parents) if found.name == "labels")
        root = next(parents, folder.parent)
        options = ["--classes", "CLASSES"]
    words = [str(root), "--output", f"{root}_ids", *options]
    return (
        "Labels need class ids (0 to the number of classes - 1) as an 8- or 16-bit single-channel "
        "PNG, not colours. Write the colour of each class into the class file (`kerb 255 0 0`), "
        f"and run: {call_of('tools/import_dataset.py')} {shlex.join(words)}"
    )


def _as_label_map(label: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    """Return the labels (N,) of a point cloud as (1, N) uint8 or uint16."""
    low, high = int(label.min()), int(label.max())
    if low < 0 or high > 65535:
        raise InputError(
            f"The cloud {path} has the label {low if low < 0 else high}. Class ids are 0 to 65535: "
            "relabel these points, with 255 for points to ignore (65535 with more than 255 classes)"
        )
    return label.astype(np.uint8 if high < 256 else np.uint16)[None]


def _refuse_lossy(image: Image.Image, path: str | os.PathLike) -> None:
    if image.format in ("JPEG", "MPO", "WEBP"):
        raise InputError(
            f"Label {path} is a {image.format} file. Lossy compression changes ids and colours: "
            "export the label again as PNG."
        )


def _refuse_other_bands(image: Image.Image, path: str | os.PathLike) -> None:
    if (number := num_pages(image, path)) > 1:
        raise InputError(
            f"Label {path} has {number} pages, and only the first would be read: write the page of "
            "the class ids to a separate file."
        )
    if image.format == "TIFF" and "X" in raw_mode(image):
        raise InputError(
            f"Label {path} has more bands than would be read: write the band of the class ids to a "
            "separate file, for example with: gdal_translate -b 1 INPUT OUTPUT"
        )


def _as_stored(ids: np.ndarray, layout: str) -> np.ndarray:
    """Return (H, W) uint8, the numbers in the file, which Pillow may have stretched or inverted.

    Args:
        layout: Pillow's name, such as "L;2IR": 2 bits, inverted (0 is white), reversed bit order.
    """
    is_inverted = "I" in layout.partition(";")[2]
    if ids.dtype == bool:
        return (ids != is_inverted).astype(np.uint8)
    if is_inverted:
        ids = 255 - ids
    stretch = _GREY_STRETCH.get(layout[:3], 1)
    return ids if stretch == 1 else ids // np.uint8(stretch)


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
    if image.mode == "RGB" and (counts := image.getcolors()):  # None above 256
        found = f" Its colours are {listed(sorted(color for _, color in counts))}."
    raise ColorMaskError(
        f"Label {path} has the channels {'+'.join(image.getbands())} with different values. "
        f"Expected one channel of class ids.{found}",
        how_to_convert(path),
    )
