"""A crop that is read equals the crop of the whole image."""

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from sar.data.augmentation import GeometricTransform
from sar.data.crop import read_crop
from sar.data.grey_range import GreyRange
from sar.data.image_files import read_image
from sar.errors import InputError

SHAPE = (61, 83)


def draw_transforms(shape, scales, count=12):
    """Yield crops of half the scaled edges; the first and the last lie in corners."""
    rng = np.random.default_rng(0)
    for i in range(count):
        scale = rng.uniform(*scales)
        scaled = tuple(max(round(edge * scale), 2) for edge in shape)
        size = tuple(max(edge // 2, 1) for edge in scaled)
        free = [edge - length for edge, length in zip(scaled, size, strict=True)]
        top, left = (int(edge * (i / (count - 1) if i in (0, count - 1) else rng.random()))
                     for edge in free)  # fmt: skip
        yield GeometricTransform(shape, scaled, top, left, size, ("none", "horizontal")[i % 2])
    yield GeometricTransform(shape, shape, 3, 5, (20, 30), "vertical")
    yield GeometricTransform(shape, shape, 0, 0, shape)


def assert_equal_to_whole(path, scales=(0.6, 2.5)):
    whole = read_image(path)
    for transform in draw_transforms(whole.shape[:2], scales):
        actual = read_crop(path, transform, "label.png").astype(int)
        # Pillow may round differently by 1.
        assert np.abs(actual - transform.apply_image(whole)).max() <= 1


def picture(mode):
    rng = np.random.default_rng(1)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, SHAPE, np.uint16))
    if mode == "P":
        return Image.fromarray(rng.integers(0, 256, (*SHAPE, 3), np.uint8)).quantize(17)
    channels = len(mode)
    array = rng.integers(0, 256, (*SHAPE, channels), np.uint8).squeeze()
    return Image.fromarray(array) if mode != "CMYK" else Image.frombytes(mode, SHAPE[::-1], array)


@pytest.mark.parametrize(
    "suffix, mode",
    [(".png", mode) for mode in ("RGB", "L", "P", "RGBA", "I;16")]
    + [(".jpg", mode) for mode in ("RGB", "L", "CMYK")]
    + [(".tif", "RGB"), (".bmp", "RGB")],
)
def test_equals_the_crop_of_the_whole(tmp_path, suffix, mode):
    picture(mode).save(tmp_path / f"image{suffix}")
    assert_equal_to_whole(tmp_path / f"image{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_orientation_is_applied(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture("RGB").save(tmp_path / f"image{suffix}", exif=exif)
    assert_equal_to_whole(tmp_path / f"image{suffix}")


def test_16_bit_png_is_scaled_to_its_range(tmp_path):
    path, grey_range = tmp_path / "image.png", GreyRange(1000, 2000)
    values = np.random.default_rng(0).integers(900, 2100, SHAPE).astype(np.uint16)
    Image.fromarray(values).save(path)
    transform = GeometricTransform(SHAPE, SHAPE, 0, 0, (20, 40))
    np.testing.assert_array_equal(
        read_crop(path, transform, "label.png", grey_range),
        transform.apply_image(read_image(path, grey_range)),
    )


# -- JPEGs that shrink


@pytest.fixture
def drafts(monkeypatch):
    """Return a list that collects the reduction of each decoded JPEG."""
    factors, draft = [], JpegImageFile.draft

    def recorded(image, mode, size):
        full = image.width
        result = draft(image, mode, size)
        factors.append(round(full / image.width))
        return result

    monkeypatch.setattr(JpegImageFile, "draft", recorded)
    return factors


def photograph(shape, seed=0):
    """Return a smooth picture with edges and a fine texture of low contrast."""
    rng = np.random.default_rng(seed)
    size = shape[::-1]
    smooth = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize(size, kind))
        for n, kind in ((4, Image.Resampling.BICUBIC), (9, Image.Resampling.NEAREST))
    ]
    texture = rng.normal(0, 8, (*shape, 1))
    return Image.fromarray(
        np.clip(0.5 * smooth[0] + 0.5 * smooth[1] + texture, 0, 255).astype("u1")
    )


@pytest.mark.parametrize(
    "shrinks_by, factor", [(1, 1), (2, 1), (3.9, 1), (4, 2), (7.9, 2), (8, 4), (16, 8), (40, 8)]
)
def test_the_decoded_image_stays_twice_as_large_as_the_sample(tmp_path, drafts, shrinks_by, factor):
    photograph((640, 800)).save(tmp_path / "image.jpg")
    scaled = round(640 / shrinks_by), round(800 / shrinks_by)
    read_crop(
        tmp_path / "image.jpg", GeometricTransform((640, 800), scaled, 0, 0, scaled), "label.png"
    )
    assert drafts == ([factor] if factor > 1 else [])


@pytest.mark.parametrize("shape", [(640, 800), (637, 803)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_reduced_decoding_stays_close(tmp_path, drafts, shape, orientation):
    path, exif = tmp_path / "image.jpg", Image.Exif()
    exif[0x0112] = orientation
    photograph(shape).save(path, exif=exif, quality=92)
    whole = read_image(path)
    for transform in draw_transforms(whole.shape[:2], (1 / 25, 1 / 4), count=20):
        differences = np.abs(
            read_crop(path, transform, "label.png") - transform.apply_image(whole).astype(float)
        )
        assert differences.mean() < 1 and differences.max() <= 16
    # After a turn, blocks at the ragged edge would come first, so it is decoded in full.
    ragged = shape[0] % 2 and orientation != 1
    assert set(drafts) == (set() if ragged else {2, 4, 8})


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("shape", [(60, 83), (83, 61)])
def test_size_that_is_not_the_labels(tmp_path, suffix, shape):
    picture("RGB").save(tmp_path / f"image{suffix}")
    for scaled in (shape, (8, 8)):
        transform = GeometricTransform(shape, scaled, 0, 0, (5, 5))
        with pytest.raises(InputError) as error:
            read_crop(tmp_path / f"image{suffix}", transform, "other.png")
        assert f"label other.png has {shape[1]} x {shape[0]} pixels" in str(error.value)
        assert f"image{suffix} 83 x 61 (width x height)" in str(error.value)


def test_rotated_jpeg_whose_label_is_not(tmp_path):
    path, exif = tmp_path / "image.jpg", Image.Exif()
    exif[0x0112] = 6
    photograph((320, 400)).save(path, exif=exif)
    transform = GeometricTransform((320, 400), (32, 40), 0, 0, (32, 40))
    with pytest.raises(InputError, match=r"image\.jpg 320 x 400 \(width x height\)"):
        read_crop(path, transform, "label.png")
