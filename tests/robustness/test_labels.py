"""Label maps, images and folder trees: each is counted exactly or refused."""

import io
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from .case import check_dataset, evaluate, predict
from .damage import DAMAGES, damage

LABEL, IMAGE = "mine/labels/train/1.png", "mine/images/train/1.png"


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def with_chunk(image: Image.Image, kind: bytes, content: bytes) -> bytes:
    """Return a PNG with an extra chunk after its header."""
    data = encoded(image)
    return data[:33] + chunk(kind, content) + data[33:]


def with_size(image: Image.Image, width: int, height: int) -> bytes:
    """Return a PNG whose header gives another size."""
    data = encoded(image)
    return data[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29]) + data[33:]


def with_orientation(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, exif=exif)


def converted(image: Image.Image, function, dtype) -> Image.Image:
    return Image.fromarray(function(np.asarray(image).astype(np.int64)).astype(dtype))


def with_palette(image: Image.Image) -> bytes:
    label = Image.fromarray(np.asarray(image), "P")
    label.putpalette([3, 2, 1] * 256)
    return encoded(label)


LARGE_TEXT = b"x\0\0" + zlib.compress(bytes(200_000_000), 9)
# A function of the image, and whether the result is accepted (None: either).
LABELS = {
    "16 bits": (lambda i: encoded(converted(i, lambda v: v, np.uint16)), True),
    "a palette": (with_palette, True),
    "grey with alpha": (lambda i: encoded(i.convert("LA")), True),
    "32 bits": (lambda i: encoded(converted(i, lambda v: v, np.int32), "TIFF"), None),
    "a large text": (lambda i: with_chunk(i, b"zTXt", LARGE_TEXT), None),
    "a damaged colour profile": (lambda i: with_chunk(i, b"iCCP", b"x\0\0rubbish"), None),
    "an id too high": (lambda i: encoded(converted(i, lambda v: v + 3, np.uint8)), False),
    "65535 for 255": (
        lambda i: encoded(converted(i, lambda v: np.where(v == 255, 65535, v), np.uint16)),
        False,
    ),
    "negative ids": (lambda i: encoded(converted(i, np.negative, np.int32), "TIFF"), False),
    "floating-point ids": (lambda i: encoded(i.convert("F"), "TIFF"), False),
    "a JPEG": (lambda i: encoded(i, "JPEG"), False),
    "colours": (lambda i: encoded(Image.merge("RGB", (i, i.point(lambda v: 255 - v), i))), False),
    "another size": (lambda i: encoded(i.resize((60, 48))), False),
    "EXIF rotation": (lambda i: with_orientation(i, 6), False),
    "a header of gigapixels": (lambda i: with_size(i, 60000, 60000), False),
    "a header without pixels": (lambda i: with_size(i, 0, 48), False),
    "a header of more rows": (lambda i: with_size(i, 64, 4800), False),
}
IMAGES = {
    "alpha": (lambda i: encoded(i.convert("RGBA")), True),
    "broken EXIF": (lambda i: encoded(i, exif=b"Exif\0\0rubbish"), True),
    "a BMP": (lambda i: encoded(i, "BMP"), True),
    "unknown orientation": (lambda i: with_orientation(i, 77), True),
    "grey": (lambda i: encoded(i.convert("L")), None),
    "16 bits": (
        lambda i: encoded(converted(i.convert("L"), lambda v: v * 257, np.uint16)),
        None,
    ),
    "CMYK": (lambda i: encoded(i.convert("CMYK"), "TIFF"), None),
    "many frames": (lambda i: encoded(i, "GIF", save_all=True, append_images=[i]), None),
    "a large text": (lambda i: with_chunk(i, b"zTXt", LARGE_TEXT), None),
    "floating-point": (lambda i: encoded(i.convert("F"), "TIFF"), False),
    "another size": (lambda i: encoded(i.resize((60, 48))), False),
    "a header of gigapixels": (lambda i: with_size(i, 60000, 60000), False),
    "SVG": (lambda i: b"<svg xmlns='http://www.w3.org/2000/svg'/>", False),
    "PostScript": (lambda i: b"%!PS-Adobe-3.0 EPSF\n%%BoundingBox: 0 0 64 48\n", False),
}


@pytest.mark.parametrize(
    "file, make, accepted",
    [
        pytest.param(file, *content, id=f"{file}: {name}")
        for file, contents in ((LABEL, LABELS), (IMAGE, IMAGES))
        for name, content in contents.items()
    ],
)
def test_a_file_format(file, make, accepted, case):
    with case() as one:
        path = one.folder / file
        with Image.open(path) as image:
            image.load()
        path.write_bytes(make(image))
        assert one.run(check_dataset, names=["1.png"]) in ({accepted} - {None} or {True, False})


IDS = st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.bool_])


@given(data=st.data(), dtype=IDS, format=st.sampled_from(["PNG", "TIFF", "BMP", "GIF"]))
def test_any_label_map(case, data, dtype, format):
    shape = data.draw(st.sampled_from([(48, 64)] * 4 + [(64, 48), (1, 1), (48, 63)]))
    elements = st.integers(0, 4) if dtype != np.float32 and dtype != np.bool_ else None
    pixels = data.draw(arrays.arrays(dtype, shape, elements=elements, fill=st.just(dtype(1))))
    try:
        content = encoded(Image.fromarray(pixels), format)
    except (OSError, TypeError):  # the format does not store this type
        return
    with case() as one:
        (one.folder / LABEL).write_bytes(content)
        one.run(check_dataset, names=["1.png"])


@pytest.mark.parametrize("file", [LABEL, IMAGE])
@given(how=DAMAGES)
def test_a_damaged_file(case, file, how):
    with case() as one:
        damage(one.folder / file, how)
        one.run(check_dataset, names=["1.png", "mine"])


@given(how=DAMAGES)
def test_a_damaged_image_for_a_prediction(case, how):
    with case() as one:
        damage(one.folder / "mine/images/val/1.png", how)
        one.run(predict, names=["1.png"])
        one.run(evaluate, names=["1.png", "mine"])


def _remove(name):
    return lambda folder: shutil.rmtree(folder / name)


def _rename(new: bytes):
    def rename(folder):
        for part in ("images", "labels"):
            parent = os.fsencode(folder / part / "train")
            os.rename(parent + b"/1.png", parent + b"/" + new)

    return rename


def _link_loop(folder):
    for part in ("images", "labels"):
        (folder / part / "train/again").symlink_to("..")


TREES = {
    **{f"no {n}": (_remove(n), False) for n in ("images", "labels", "images/train", "images/val")},
    "an image without label": (lambda f: (f / "labels/train/1.png").unlink(), False),
    "two images of a name": (lambda f: shutil.copy(f / IMAGE[5:], f / "images/train/1.PNG"), False),
    "a circle of links": (_link_loop, False),
    "a label without image": (
        lambda f: shutil.copy(f / LABEL[5:], f / "labels/train/9.png"),
        True,
    ),
    "hidden files": (lambda f: (f / "images/train/._0.png").write_bytes(b"rubbish"), True),
    "other files": (lambda f: (f / "images/train/Thumbs.db").write_bytes(b"x"), True),
    "not UTF-8": (_rename(b"1\xff\xfe.png"), None),
    "a line break": (_rename(b"1\n4.png"), None),
    "blanks": (_rename(b" 1 %s {0} *.png"), None),
    "control characters": (_rename(b"1\x1b[2J.png"), None),
    "a long name": (_rename(b"1" * 250 + b".png"), None),
}


@pytest.mark.parametrize("spoil, accepted", TREES.values(), ids=TREES)
def test_a_folder_tree(spoil, accepted, case):
    with case() as one:
        spoil(one.folder / "mine")
        names = ["mine", "1.png"]
        assert one.run(check_dataset, names=names) in ({accepted} - {None} or {True, False})
