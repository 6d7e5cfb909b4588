import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sar.data.grey_range import GreyRange
from sar.data.image_files import read_image, read_image_size, read_stored_image
from sar.data.label_files import read_label
from sar.data.pillow_files import allow_pixels, exif_orientation
from sar.errors import InputError

from detectron2.data import detection_utils

from ..image_files import pages, save, tiff, truncate, with_orientation


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("read", [read_image, read_image_size, read_label])
def test_a_pipe_or_a_folder_is_no_image(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match=rf"{name}\.png is a folder, a pipe or a device"):
            read(tmp_path / f"{name}.png")


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


def test_pages_that_are_not_read(tmp_path, rgb):
    assert not read_stored_image(pages(tmp_path / "image.tif", rgb)).has_other_bands
    assert read_stored_image(pages(tmp_path / "image.tif", rgb, rgb)).has_other_bands


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, rgb, suffix, orientation):
    path = with_orientation(tmp_path / f"image{suffix}", rgb, orientation)
    assert exif_orientation(path) == orientation
    assert exif_orientation(save(tmp_path / f"plain{suffix}", rgb)) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_the_xmp_of_a_png(tmp_path, rgb, orientation):
    """Photo editors write it there. Header and pixels must agree."""
    xmp = f'<x tiff:Orientation="{orientation}"/>'
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp)
    path = tmp_path / "image.png"
    Image.fromarray(rgb).save(path, pnginfo=info)
    assert exif_orientation(path) == orientation
    expected = read_image(with_orientation(tmp_path / "exif.png", rgb, orientation))
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_image_size(path) == expected.shape[:2]


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


def test_large_images_that_are_allowed_are_read_without_a_warning(tmp_path, rgb):
    path = str(save(tmp_path / "large.png", rgb))
    code = "import sys\nfrom PIL import Image\nfrom sar.data.image_files import read_image\n"
    code += "Image.MAX_IMAGE_PIXELS = 30\nprint(read_image(sys.argv[1]).shape)"
    command = [sys.executable, "-c", code, path]
    # In a process of its own, because pytest has its own filters of warnings.
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "(6, 9, 3)\n" and "DecompressionBomb" not in done.stderr


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
