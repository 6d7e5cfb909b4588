import io
import os
import pickle
import shlex
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from sar.data.grey_range import GreyRange
from sar.data.label_files import (
    ColorMaskError,
    allow_pixels,
    exif_orientation,
    how_to_convert,
    read_color_mask,
    read_image,
    read_image_size,
    read_label,
    read_label_and_palette,
    read_stored_image,
)
from sar.errors import InputError

from detectron2.data import detection_utils


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(path, array, **kwargs):
    Image.fromarray(array).save(path, **kwargs)
    return path


def truncate(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def with_orientation(path, array, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, array, exif=exif)


@pytest.mark.parametrize("read", [read_image, read_image_size, read_label])
def test_a_pipe_or_a_folder_is_no_image(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match=rf"{name}\.png is a folder, a pipe or a device"):
            read(tmp_path / f"{name}.png")


# -- labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_of_every_id(tmp_path, dtype):
    ids = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1)
    label = read_label(save(tmp_path / "label.png", ids))
    assert label.dtype == dtype
    np.testing.assert_array_equal(label, ids)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_label_with_palette_gives_indices(tmp_path, bits):
    ids = (np.arange(48) % 2**bits).astype(np.uint8).reshape(6, 8)
    image = Image.fromarray(ids).convert("P")
    image.putdata(ids.reshape(-1).tolist())
    # Colours in which no index can be recognised.
    image.putpalette([255 - (7 * i) % 256 for i in range(3 * 2**bits)])
    image.save(tmp_path / "label.png", bits=bits)
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), ids)


def grey_png(ids, bits):
    """A grey PNG of few bits, which Pillow cannot write, byte for byte."""
    height, width = ids.shape
    planes = np.unpackbits(ids[..., None], axis=2)[:, :, 8 - bits :].reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(planes, axis=1))

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_label_of_few_bits_gives_ids_as_written(tmp_path, bits):
    ids = (np.arange(35) % 2**bits).astype(np.uint8).reshape(5, 7)
    (tmp_path / "label.png").write_bytes(grey_png(ids, bits))
    label = read_label(tmp_path / "label.png")
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, ids)


def grey_tiff(path, ids, bits, photometric):
    """A TIFF of few bits; photometric 0 says that 0 is white."""
    height, width = ids.shape
    planes = np.unpackbits(ids[..., None], axis=2)[:, :, 8 - bits :].reshape(height, -1)
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1}
    return written_tiff(path, tags, np.packbits(planes, axis=1).tobytes())


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_tiff_label_gives_ids_as_written(tmp_path, bits, photometric):
    ids = (np.arange(40) % 2**bits).astype(np.uint8).reshape(5, 8)
    label = read_label(grey_tiff(tmp_path / "label.tif", ids, bits, photometric))
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, ids)


@pytest.mark.parametrize("mode, channels", [("RGB", "R+G+B"), ("RGBA", "R+G+B+A"), ("LA", "L+A")])
def test_label_of_several_channels_is_an_error(tmp_path, mode, channels):
    image = Image.new(mode, (4, 3))
    image.putpixel((0, 0), (1, 1, 2, 255)[: len(channels) // 2 + 1] if mode != "LA" else (1, 7))
    image.save(tmp_path / "coloured.png")
    with pytest.raises(InputError, match=r"coloured\.png has the channels") as error:
        read_label(tmp_path / "coloured.png")
    for part in (channels, "single-channel PNG", "tools/convert_labels.py"):
        assert part in str(error.value)
    if mode == "RGB":
        assert "Its colours are (0, 0, 0), (1, 1, 2)." in str(error.value)


def test_the_command_for_colours_has_the_paths_that_are_known(tmp_path):
    root = tmp_path / "my roads"
    path = root / "labels" / "train" / "a.png"
    command = how_to_convert(path).partition(" run: ")[2]
    folder = str(path.parent)
    options = ["--labels", folder, "--classes", "CLASSES", "--output", f"{folder}_ids"]
    assert shlex.split(command) == ["python", "tools/convert_labels.py", *options]
    root.mkdir()
    (root / "classes.txt").write_text("gravel\n")
    for mask, part in ((path, "/labels"), (root / "a.png", "")):
        options = ["--labels", f"{root}{part}", "--classes", f"{root}/classes.txt"]
        options += ["--output", f"{root}_ids{part}"]
        assert shlex.split(how_to_convert(mask))[-6:] == options


def test_the_error_about_colours_passes_between_processes():
    error = pickle.loads(pickle.dumps(ColorMaskError("finding", "remedy")))
    assert (str(error), error.finding) == ("finding remedy", "finding")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_ids_that_are_repeated_over_the_channels(tmp_path, mode):
    ids = np.arange(60, dtype=np.uint8).reshape(6, 10)
    Image.fromarray(ids).convert(mode).save(tmp_path / "label.png")
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), ids)


def test_palette_of_a_label(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.save(tmp_path / "label.png")
    ids, palette = read_label_and_palette(tmp_path / "label.png")
    assert ids.tolist() == [[0, 1, 1]] and palette[:2].tolist() == [[1, 2, 3], [4, 5, 6]]
    Image.fromarray(ids).save(tmp_path / "grey.png")
    assert read_label_and_palette(tmp_path / "grey.png")[1] is None


def test_label_of_floating_point_numbers_is_an_error(tmp_path):
    save(tmp_path / "float.tif", np.zeros((3, 3), np.float32))
    with pytest.raises(
        InputError, match=r"float\.tif holds floating-point numbers: write the class"
    ):
        read_label(tmp_path / "float.tif")


def test_label_of_32_bits_is_an_error_where_values_do_not_fit(tmp_path):
    save(tmp_path / "fits.tif", np.array([[0, 65535]], np.int32))
    np.testing.assert_array_equal(read_label(tmp_path / "fits.tif"), [[0, 65535]])
    save(tmp_path / "large.tif", np.array([[0, 65536]], np.int32))
    with pytest.raises(InputError, match=r"large\.tif has values from 0 to 65536"):
        read_label(tmp_path / "large.tif")


# -- images


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_image_equals_detectron2s(tmp_path, rgb, suffix):
    path = save(tmp_path / f"image{suffix}", rgb)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, detection_utils.read_image(str(path), "RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_as_detectron2(tmp_path, rgb, suffix, orientation):
    path = with_orientation(tmp_path / f"image{suffix}", rgb, orientation)
    image = read_image(path)
    np.testing.assert_array_equal(image, detection_utils.read_image(str(path), "RGB"))
    assert image.shape == ((9, 6, 3) if orientation >= 5 else (6, 9, 3))
    assert read_image_size(path) == image.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_tiff_is_applied_once(tmp_path, rgb, orientation):
    tif = with_orientation(tmp_path / "image.tif", rgb, orientation)
    png = with_orientation(tmp_path / "image.png", rgb, orientation)
    np.testing.assert_array_equal(read_image(tif), read_image(png))
    assert read_image_size(tif) == read_image(png).shape[:2]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_an_uncompressed_tiff_label(tmp_path, dtype, orientation):
    ids = np.arange(54, dtype=dtype).reshape(6, 9)
    tif = with_orientation(tmp_path / "label.tif", ids, orientation)
    png = with_orientation(tmp_path / "label.png", ids, orientation)
    np.testing.assert_array_equal(read_label(tif), read_label(png))


def test_grey_alpha_and_palette_images_become_rgb(tmp_path, rgb):
    grey = rgb[:, :, 0]
    image = read_image(save(tmp_path / "grey.png", grey))
    np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=2))

    image = read_image(save(tmp_path / "alpha.png", np.dstack([rgb, grey])))
    np.testing.assert_array_equal(image, rgb)

    indexed = Image.new("P", (2, 1))
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.putpixel((1, 0), 1)
    indexed.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "palette.png"), [[[10, 20, 30], [40, 50, 60]]]
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_image_is_scaled_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 60).astype(np.uint16).reshape(6, 10)
    image = read_image(save(tmp_path / f"deep{suffix}", values))
    assert image.dtype == np.uint8 and image.shape == (6, 10, 3)
    np.testing.assert_array_equal(image[:, :, 1], np.rint(values / 65535 * 255))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_image_is_scaled_to_its_range(tmp_path, suffix):
    path = save(tmp_path / f"deep{suffix}", np.array([[999, 1000, 1500, 2000, 2001]], np.uint16))
    assert read_image(path, GreyRange(1000, 2000))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    stored = read_stored_image(path)
    assert stored.values.tolist() == [[999, 1000, 1500, 2000, 2001]]
    assert not stored.lacks_low_bits and not stored.has_other_bands


@pytest.mark.parametrize("black, white", [(-1, 9), (9, 9), (10, 9), (0, 65536)])
def test_ranges_that_cannot_be(black, white):
    with pytest.raises(InputError, match=f"BLACK_POINT is {black} and INPUT.WHITE_POINT {white}"):
        GreyRange(black, white)


def tiff(path, array, photometric=1):
    """A TIFF of bands (H, W, C) that Pillow cannot write; photometric 1 is grey, 2 is RGB."""
    height, width, bands = array.shape
    bits, pixels = 8 * array.dtype.itemsize, array.astype(array.dtype.newbyteorder("<")).tobytes()
    sample_format = "uif".index(array.dtype.kind) + 1
    others = bands - (1 if photometric == 1 else 3)
    tags = {
        256: width, 257: height, 258: [bits] * bands, 259: 1, 262: photometric, 273: 0,
        277: bands, 284: 1, 338: [0] * others, 339: [sample_format] * bands,
    }  # fmt: skip
    return written_tiff(path, tags, pixels)


def written_tiff(path, tags, pixels):
    """A TIFF of one strip."""
    tags = {**tags, 278: tags[257], 279: len(pixels)}
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        if value != []:
            directory[tag] = value
    # Pillow adds the end of the directory to the offset of the strip.
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory.tobytes(8) + pixels)
    return path


@pytest.mark.parametrize(
    "dtype, bands, described",
    [
        (np.uint8, 4, "4 bands of 8 bits: write the one or three bands"),
        (np.uint16, 5, "5 bands of 16 bits: .* -b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB"),
        (np.uint16, 12, "12 bands of 16 bits"),
        (np.float32, 3, r"3 bands of 32 bits \(floating-point numbers\)"),
        (np.float64, 1, r"1 band of 64 bits \(floating-point numbers\): convert it to 8 or 16"),
        (np.int16, 2, "2 bands of 16 bits with sign"),
    ],
)
def test_tiff_that_pillow_cannot_read_is_explained(tmp_path, dtype, bands, described):
    path = tiff(tmp_path / "bands.tif", np.zeros((3, 4, bands), dtype))
    for read in (read_image, read_image_size, read_stored_image):
        with pytest.raises(InputError, match=rf"The image .*bands\.tif has {described}"):
            read(path)
    with pytest.raises(InputError, match=r"The label .*bands\.tif has"):
        read_label(path)


@pytest.mark.parametrize("bands, photometric, others", [(3, 2, 0), (4, 2, 1), (1, 1, 0), (2, 1, 1)])
def test_bands_that_are_not_read(tmp_path, bands, photometric, others):
    path = tiff(tmp_path / "bands.tif", np.zeros((3, 4, bands), np.uint8), photometric)
    assert read_stored_image(path).has_other_bands == bool(others)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_three_bands_as_gdal_writes_them(tmp_path, rgb, dtype):
    scale = np.iinfo(dtype).max // 255
    path = tiff(tmp_path / "bands.tif", rgb.astype(dtype) * scale)
    np.testing.assert_array_equal(read_image(path), rgb)
    assert read_image_size(path) == rgb.shape[:2]
    ids = np.repeat(rgb[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(read_label(tiff(tmp_path / "label.tif", ids)), ids[:, :, 0])


@pytest.mark.parametrize("photometric", [1, 2])
def test_label_of_three_bands_of_16_bits_is_an_error(tmp_path, photometric):
    path = tiff(tmp_path / "label.tif", np.ones((3, 4, 3), np.uint16), photometric)
    with pytest.raises(InputError, match=r"label\.tif has several bands of 16 bits"):
        read_label(path)


@pytest.mark.parametrize("bands, photometric", [(2, 1), (4, 2)])
def test_label_of_several_bands_is_an_error(tmp_path, bands, photometric):
    path = tiff(tmp_path / "label.tif", np.zeros((3, 4, bands), np.uint8), photometric)
    for read in (read_label, read_color_mask):
        with pytest.raises(InputError, match=r"label\.tif has more bands than would be read"):
            read(path)


def pages(path, *arrays, **kwargs):
    first, *others = map(Image.fromarray, arrays)
    first.save(path, save_all=True, append_images=others, **kwargs)
    return path


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_label_of_several_pages_is_an_error(tmp_path, suffix):
    ids = np.zeros((3, 4), np.uint8)
    with pytest.raises(InputError, match=rf"label\{suffix} has 3 pages"):
        read_label(pages(tmp_path / f"label{suffix}", ids, ids + 1, ids + 2))


def test_overviews_of_a_label_are_no_pages(tmp_path):
    ids = np.arange(64, dtype=np.uint8).reshape(8, 8)
    overview = Image.fromarray(ids[::2, ::2])
    overview.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(ids).save(tmp_path / "label.tif", save_all=True, append_images=[overview])
    np.testing.assert_array_equal(read_label(tmp_path / "label.tif"), ids)


def test_pages_that_are_not_read(tmp_path, rgb):
    assert not read_stored_image(pages(tmp_path / "image.tif", rgb)).has_other_bands
    assert read_stored_image(pages(tmp_path / "image.tif", rgb, rgb)).has_other_bands


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, rgb, suffix, orientation):
    path = with_orientation(tmp_path / f"image{suffix}", rgb, orientation)
    assert exif_orientation(path) == orientation
    assert exif_orientation(save(tmp_path / f"plain{suffix}", rgb)) == 1


def test_16_bit_colours_lack_their_low_bits(tmp_path):
    path = tiff(tmp_path / "deep.tif", np.full((3, 4, 3), 4095, np.uint16), 2)
    stored = read_stored_image(path)
    assert stored.lacks_low_bits and (stored.values == 15).all()


def test_floating_point_image_is_an_error(tmp_path):
    save(tmp_path / "float.tif", np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match=r"float\.tif holds floating-point numbers"):
        read_image(tmp_path / "float.tif")


def test_size_of_an_image_whose_pixels_are_damaged(tmp_path, rgb):
    path = truncate(save(tmp_path / "image.png", np.tile(rgb, (20, 20, 1))), 0.9)
    assert read_image_size(path) == (120, 180)


# -- files that cannot be read


@pytest.mark.parametrize("read", [read_image, read_image_size, read_label])
def test_missing_file_is_named(tmp_path, read):
    with pytest.raises(InputError, match=r"nowhere\.png is not there"):
        read(tmp_path / "nowhere.png")


@pytest.mark.parametrize("read", [read_image, read_image_size, read_label])
@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_file_that_is_no_image_is_named(tmp_path, read, content):
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(InputError, match=r"text\.png cannot be read"):
        read(tmp_path / "text.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_truncated_image_is_named(tmp_path, rgb, suffix):
    path = truncate(save(tmp_path / f"half{suffix}", np.tile(rgb, (20, 20, 1))))
    with pytest.raises(InputError, match=rf"half\{suffix} cannot be read \(truncated"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_truncated_label_is_named(tmp_path, dtype):
    ids = np.random.default_rng(0).integers(0, 255, (100, 100)).astype(dtype)
    path = truncate(save(tmp_path / "half.png", ids))
    with pytest.raises(InputError, match=r"half\.png cannot be read \(truncated"):
        read_label(path)


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_damaged_files_raise_nothing_but_input_errors(tmp_path, rgb, suffix):
    buffer = io.BytesIO()
    Image.fromarray(np.tile(rgb, (4, 4, 1))).save(buffer, Image.registered_extensions()[suffix])
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(200):
        content = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        content[rng.integers(0, len(content), 10)] = rng.integers(0, 256, 10)
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(content.tobytes())
        try:
            read_image(path)
        except InputError as error:
            assert path.name in str(error)
            errors += 1
    assert errors > 0


@pytest.mark.filterwarnings("ignore:::PIL")
def test_image_too_large_to_be_decoded(tmp_path, monkeypatch, rgb):
    path = save(tmp_path / "large.png", rgb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for read in (read_image, read_image_size, read_label):
        with pytest.raises(InputError, match=r"large\.png has more pixels .* INPUT\.MAX_PIXELS"):
            read(path)
    allow_pixels(54)
    assert read_image(path).shape == rgb.shape
    allow_pixels(10)  # what was allowed stays so
    assert Image.MAX_IMAGE_PIXELS == 27
    for number in (0, -5):
        with pytest.raises(InputError, match=f"MAX_PIXELS .* is {number}, expected 1 or more"):
            allow_pixels(number)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    allow_pixels(10)
    assert Image.MAX_IMAGE_PIXELS is None
