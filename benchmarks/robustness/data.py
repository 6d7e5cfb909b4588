"""Spoilt class files, label maps, images and folder trees."""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .case import ACCEPTED, EITHER, REFUSED, Case, mutation

# What other classes than those of a checkpoint, or of the labels, are at odds with.
CLASS_KEYS = ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE")
CLASS_FILES = {
    "a class fewer": (b"ground\nblock\n", REFUSED),
    "named twice": (b"ground\nblock\nground\n", REFUSED),
    "only comments": (b"# nothing\n\n", REFUSED),
    "UTF-16": ("ground\nblock\ndot\n".encode("utf-16"), REFUSED),
    "no UTF-8": (b"gr\xfcn\nblock\ndot\n", REFUSED),
    "a colour too large": (b"ground 300 0 0\nblock\ndot\n", REFUSED),
    "a colour of many digits": (b"ground 1 2 " + b"9" * 5000 + b"\nblock\ndot\n", REFUSED),
    "too many classes": (b"".join(b"c%d\n" % i for i in range(70000)), REFUSED),
    "a class more": (b"ground\nblock\ndot\nunicorn\n", EITHER),
    "300 classes": (b"".join(b"c%d\n" % i for i in range(300)), EITHER),
    "a name of a million letters": (b"ground\n" + b"x" * 1_000_000 + b"\ndot\n", EITHER),
    "names for a terminal": (b"gro\x1b[2Jund\nbl\tock\ndot\x07\n", EITHER),
    "names for a table": (b"a|b\n%s{0}\n../../x\n", EITHER),
    "zero bytes": (b"gro\x00und\nblock\ndot\n", EITHER),
    "odd line ends": ("a\u2028b\nblock\x0bd\n".encode(), EITHER),
    "a byte order mark": (b"\xef\xbb\xbfground\nblock\ndot\n", ACCEPTED),
    "Windows line ends": (b"ground\r\nblock\r\ndot\r\n", ACCEPTED),
    "comments and colours": (b"# ids\nground 1 2 3\n\n  block #ff0000\ndot\n", ACCEPTED),
}
for _name, (_content, _expected) in CLASS_FILES.items():

    @mutation(
        "class file", "train", "check_dataset", "visualize", "predict",
        expected=_expected, name=_name,
    )  # fmt: skip
    def _(case: Case, content: bytes = _content) -> None:
        case.path("mine/classes.txt").write_bytes(content)
        # Or the labels of too many ids.
        case.names += ["labels/", *CLASS_KEYS]


def png(image: Image.Image, **options) -> bytes:
    return encoded(image, "PNG", **options)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def with_chunk(image: Image.Image, kind: bytes, content: bytes) -> bytes:
    """A PNG with another chunk after its header."""
    data = png(image)
    return data[:33] + chunk(kind, content) + data[33:]


def with_size(image: Image.Image, width: int, height: int) -> bytes:
    """A PNG whose header tells of another size."""
    data = png(image)
    header = struct.pack(">II", width, height) + data[24:29]
    return data[:8] + chunk(b"IHDR", header) + data[33:]


def with_palette(image: Image.Image) -> Image.Image:
    label = Image.fromarray(np.asarray(image), "P")
    label.putpalette([3, 2, 1] * 256)
    return label


def with_orientation(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return png(image, exif=exif)


def from_array(array: np.ndarray, dtype: type) -> Image.Image:
    return Image.fromarray(array.astype(dtype))


# Each makes a file of a label (L, 48 x 64, ids 0 to 2 and 255), an image of an image (RGB).
LABELS: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "16 bits": (lambda i: png(from_array(np.asarray(i), np.uint16)), ACCEPTED),
    "a palette": (lambda i: png(with_palette(i)), ACCEPTED),
    "32 bits": (lambda i: encoded(from_array(np.asarray(i), np.int32), "TIFF"), EITHER),
    "a GIF": (lambda i: encoded(i, "GIF"), EITHER),
    "many frames": (lambda i: png(i, save_all=True, append_images=[i, i]), EITHER),
    "a text of gigabytes": (
        lambda i: with_chunk(i, b"zTXt", b"x\0\0" + zlib.compress(bytes(200_000_000), 9)),
        EITHER,
    ),
    "a colour profile of rubbish": (lambda i: with_chunk(i, b"iCCP", b"x\0\0rubbish"), EITHER),
    "an id too high": (lambda i: png(from_array(np.asarray(i) + 3, np.uint8)), REFUSED),
    "65535 for 255": (
        lambda i: png(from_array(np.where(np.int64(i) == 255, 65535, np.int64(i)), np.uint16)),
        REFUSED,
    ),
    "negative ids": (lambda i: encoded(from_array(-np.int32(i), np.int32), "TIFF"), REFUSED),
    "floating-point ids": (lambda i: encoded(i.convert("F"), "TIFF"), REFUSED),
    "a JPEG": (lambda i: encoded(i, "JPEG"), REFUSED),
    "colours": (lambda i: png(Image.merge("RGB", (i, i.point(lambda v: 255 - v), i))), REFUSED),
    "grey with alpha": (lambda i: png(i.convert("LA")), ACCEPTED),
    "another size": (lambda i: png(i.resize((60, 48))), REFUSED),
    "one pixel": (lambda i: png(i.resize((1, 1))), REFUSED),
    "turned by its EXIF data": (lambda i: with_orientation(i, 6), REFUSED),
    "a header of gigapixels": (lambda i: with_size(i, 60000, 60000), REFUSED),
    "a header of no pixel": (lambda i: with_size(i, 0, 48), REFUSED),
    "a header of more rows": (lambda i: with_size(i, 64, 4800), REFUSED),
    "ten thousand columns": (lambda i: png(i.resize((10000, 2))), REFUSED),
}  # fmt: skip
IMAGES: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "an alpha channel": (lambda i: png(i.convert("RGBA")), ACCEPTED),
    "broken EXIF data": (lambda i: png(i, exif=b"Exif\0\0rubbish"), ACCEPTED),
    "a BMP": (lambda i: encoded(i, "BMP"), ACCEPTED),
    "turned around by its EXIF data": (lambda i: with_orientation(i, 3), EITHER),
    "an unknown orientation": (lambda i: with_orientation(i, 77), ACCEPTED),
    "grey": (lambda i: png(i.convert("L")), EITHER),
    "a bit a pixel": (lambda i: png(i.convert("1")), EITHER),
    "16 bits": (lambda i: png(from_array(np.int64(i.convert("L")) * 257, np.uint16)), EITHER),
    "CMYK": (lambda i: encoded(i.convert("CMYK"), "TIFF"), EITHER),
    "Lab colours": (lambda i: encoded(Image.new("LAB", i.size), "TIFF"), EITHER),
    "a palette": (lambda i: png(i.convert("P")), EITHER),
    "many frames": (lambda i: encoded(i, "GIF", save_all=True, append_images=[i]), EITHER),
    "a text of gigabytes": (LABELS["a text of gigabytes"][0], EITHER),
    "floating-point": (lambda i: encoded(i.convert("F"), "TIFF"), REFUSED),
    "another size": (lambda i: png(i.resize((60, 48))), REFUSED),
    "turned by its EXIF data": (lambda i: with_orientation(i, 6), REFUSED),
    "a header of gigapixels": (lambda i: with_size(i, 60000, 60000), REFUSED),
    "a header of no pixel": (lambda i: with_size(i, 0, 48), REFUSED),
    "a vector graphic": (lambda i: b"<svg xmlns='http://www.w3.org/2000/svg'/>", REFUSED),
    "PostScript": (lambda i: b"%!PS-Adobe-3.0 EPSF\n%%BoundingBox: 0 0 64 48\n", REFUSED),
}
for _kind, _part, _files in (("label map", "labels", LABELS), ("image", "images", IMAGES)):
    for _name, (_make, _expected) in _files.items():
        for _split, _programs in (
            ("train", ("train", "check_dataset")),
            ("val", ("evaluate",)),
        ):

            @mutation(_kind, *_programs, expected=_expected, name=f"{_split}: {_name}")
            def _(case: Case, make=_make, file: str = f"mine/{_part}/{_split}/1.png") -> None:
                path = case.path(file)
                with Image.open(path) as image:
                    image.load()
                path.unlink()
                path.write_bytes(make(image))


@mutation("label map", "train", "check_dataset", name="all ignored")
def _(case: Case) -> None:
    for path in (case.folder / "mine/labels/train").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(path)
    case.names.append("ignored")


@mutation("label map", "train", "resume", name="bad, and not checked before")
def _(case: Case) -> None:
    for path in (case.folder / "mine/labels/train").iterdir():
        path.write_bytes(b"rubbish")
    case.words += ["DATASETS.CHECK", "False", "DATASETS.CLASS_FREQUENCY", "frequency.json"]
    case.names.append("labels/train")


def _link_loop(folder: Path) -> None:
    (folder / "images/train/again").symlink_to("..")
    (folder / "labels/train/again").symlink_to("..")


def _duplicate(folder: Path) -> None:
    shutil.copy(folder / "images/train/0.png", folder / "images/train/0.PNG")


def _sub_folders(folder: Path) -> None:
    for part in ("images", "labels"):
        (folder / part / "train/a/b").mkdir(parents=True)
        (folder / part / "train/3.png").rename(folder / part / "train/a/b/3.png")


def _rename(old: str, new: str | bytes) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        for part in ("images", "labels"):
            parent = os.fsencode(folder / part / "train")
            os.rename(parent + b"/" + old.encode(), parent + b"/" + os.fsencode(new))

    return rename


def _replace(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        shutil.rmtree(folder / name)
        make(folder / name)

    return replace


def _as_capital(folder: Path) -> None:
    (folder / "images/train/0.png").rename(folder / "images/train/0.PNG")


TREES: dict[str, tuple[Callable[[Path], None], str]] = {
    **{
        # check_dataset names a split that is half there, and counts the others.
        f"no {name}": (
            _replace(name, lambda path: None),
            EITHER if name == "labels/val" else REFUSED,
        )
        for name in ("images", "labels", "images/train", "images/val", "labels/train", "labels/val")
    },
    "an empty split": (_replace("images/val", Path.mkdir), REFUSED),
    "labels without files": (_replace("labels/train", Path.mkdir), REFUSED),
    "a split that is a file": (_replace("images/train", Path.touch), REFUSED),
    "a split that leads nowhere": (
        _replace("images/train", lambda path: path.symlink_to("nowhere")),
        REFUSED,
    ),
    "a split that leads to itself": (
        _replace("images/train", lambda path: path.symlink_to("train")),
        REFUSED,
    ),
    "an image without label": (lambda f: (f / "labels/train/1.png").unlink(), REFUSED),
    "two images of a name": (_duplicate, REFUSED),
    "links in a circle": (_link_loop, REFUSED),
    "no folder": (shutil.rmtree, REFUSED),
    "a label without image": (
        lambda f: shutil.copy(f / "labels/train/0.png", f / "labels/train/9.png"),
        ACCEPTED,
    ),
    "hidden files": (lambda f: (f / "images/train/._0.png").write_bytes(b"rubbish"), ACCEPTED),
    "other files": (lambda f: (f / "images/train/Thumbs.db").write_bytes(b"x"), ACCEPTED),
    "an ending in capitals": (_as_capital, ACCEPTED),
    "sub-folders": (_sub_folders, EITHER),
    "a name that is no UTF-8": (_rename("3.png", b"3\xff\xfe.png"), EITHER),
    "a name with a line end": (_rename("3.png", "3\n4.png"), EITHER),
    "a name with blanks": (_rename("3.png", " 3 %s {0} *.png"), EITHER),
    "a name for a terminal": (_rename("3.png", "3\x1b[2J.png"), EITHER),
    "a long name": (_rename("3.png", "3" * 250 + ".png"), EITHER),
}
for _name, (_spoil, _expected) in TREES.items():

    @mutation("folder tree", "train", "check_dataset", expected=_expected, name=_name)
    def _(case: Case, spoil=_spoil) -> None:
        spoil(case.folder / "mine")
        case.names.append("mine")

    if _expected == REFUSED:
        mutation("folder tree", "evaluate", "visualize", "predict", expected=EITHER, name=_name)(_)


@mutation("folder tree", "train", "check_dataset", "evaluate")
def a_folder_that_may_not_be_read(case: Case) -> None:
    case.rights[case.path("mine/images/val")] = 0o311


DOWNLOADS = {
    "none": lambda folder: None,
    "empty": Path.mkdir,
    "a file": Path.touch,
    "a link to itself": lambda folder: folder.symlink_to(folder.name),
    "empty folders": lambda folder: [
        (folder / name).mkdir(parents=True)
        for name in (
            "leftImg8bit/train", "gtFine/train", "images/training", "annotations/training",
            "train2017", "val2017", "stuffthingmaps/train2017", "images/ADE/training", "JPEGImages",
        )
    ],
    "a text for a list": lambda folder: (
        folder.mkdir() or (folder / "trainval_merged.json").write_text("[" * 100_000)
    ),
}  # fmt: skip
for _name, _make in DOWNLOADS.items():

    @mutation(
        "folder tree",
        "prepare_cityscapes",
        "prepare_ade20k",
        "prepare_ade20k_full",
        "prepare_coco_stuff",
        "prepare_pascal_context",
        name=f"download: {_name}",
    )
    def _(case: Case, make=_make) -> None:
        make(case.path("download"))
