import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sar.data.labels import read_image, read_image_size, read_label
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


@pytest.mark.parametrize("mode, channels", [("RGB", "R+G+B"), ("RGBA", "R+G+B+A"), ("LA", "L+A")])
def test_label_of_several_channels_is_an_error(tmp_path, mode, channels):
    Image.new(mode, (4, 3)).save(tmp_path / "coloured.png")
    with pytest.raises(InputError, match=r"coloured\.png has the channels") as error:
        read_label(tmp_path / "coloured.png")
    assert channels in str(error.value) and "single-channel PNG" in str(error.value)


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


def test_image_too_large_to_be_decoded(tmp_path, monkeypatch, rgb):
    path = save(tmp_path / "large.png", rgb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"large\.png is too large .* cut it into tiles"):
        read_image(path)
