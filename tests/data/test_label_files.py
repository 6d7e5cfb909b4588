import pickle
import shlex
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sar.data.label_files import (
    ColorMaskError,
    how_to_convert,
    read_color_mask,
    read_label,
    read_label_and_palette,
)
from sar.errors import InputError

from ..image_files import pages, save, tiff, truncate, with_orientation, written_tiff


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
    for part in (channels, "single-channel PNG", "tools/import_dataset.py"):
        assert part in str(error.value)
    if mode == "RGB":
        assert "Its colours are (0, 0, 0), (1, 1, 2)." in str(error.value)


def test_the_command_for_colours_has_the_paths_that_are_known(tmp_path):
    root = tmp_path / "my roads"
    command = ["python", "tools/import_dataset.py", str(root), "--output", f"{root}_ids"]
    for mask in (root / "labels" / "train" / "a.png", root / "masks" / "a.png"):
        words = shlex.split(how_to_convert(mask).partition(" run: ")[2])
        assert words == [*command, "--classes", "CLASSES"]
    root.mkdir()
    (root / "classes.txt").write_text("gravel\n")
    for mask in (root / "labels" / "train" / "a.png", root / "a.png"):
        assert shlex.split(how_to_convert(mask).partition(" run: ")[2]) == command


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_an_uncompressed_tiff_label(tmp_path, dtype, orientation):
    ids = np.arange(54, dtype=dtype).reshape(6, 9)
    tif = with_orientation(tmp_path / "label.tif", ids, orientation)
    png = with_orientation(tmp_path / "label.png", ids, orientation)
    np.testing.assert_array_equal(read_label(tif), read_label(png))


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_truncated_label_is_named(tmp_path, dtype):
    ids = np.random.default_rng(0).integers(0, 255, (100, 100)).astype(dtype)
    path = truncate(save(tmp_path / "half.png", ids))
    with pytest.raises(InputError, match=r"half\.png cannot be read \(truncated"):
        read_label(path)
