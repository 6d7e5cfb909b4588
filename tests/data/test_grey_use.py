import re

import numpy as np
import pytest

from sar.data.grey_range import GreyRange
from sar.data.grey_use import GreyUse, ImageUse
from sar.data.image_files import FULL_RANGE, StoredImage


def warnings_of(*images, grey_range=FULL_RANGE, lacks_low_bits=False, has_other_bands=False):
    use = GreyUse(grey_range)
    for i, values in enumerate(images):
        image = StoredImage(np.asarray(values), lacks_low_bits, has_other_bands)
        use.add(f"{i}.tif", ImageUse.of(image))
    return use.warnings()


def grey(low, high):
    return np.linspace(low, high, 10000).astype(np.uint16).reshape(100, 100)


@pytest.mark.parametrize("high", [17000, 65535])
def test_a_large_part_is_no_warning(high):
    assert warnings_of(grey(0, high)) == []


@pytest.mark.parametrize("low, high", [(0, 4095), (7000, 9000), (0, 0), (65535, 65535)])
def test_a_small_part_is_a_warning_that_says_what_to_set(low, high):
    (warning,) = warnings_of(grey(low, high), grey(low, high))
    found = re.search(r"set INPUT.BLACK_POINT (\d+) INPUT.WHITE_POINT (\d+)\.$", warning)
    black, white = map(int, found.groups())
    GreyRange(black, white)  # is possible
    assert abs(black - low) <= 10 and abs(white - high) <= 10
    assert "The 2 grey images of 16 bits use the values" in warning
    if high - low > 100:
        assert warnings_of(grey(low, high), grey_range=GreyRange(black, white)) == []


def test_the_part_is_that_of_all_images():
    assert warnings_of(grey(0, 10000), grey(30000, 40000)) == []


def test_some_images_use_a_small_part():
    wide, narrow = grey(0, 65535), grey(1000, 1255)
    (warning,) = warnings_of(wide, narrow, wide, narrow)
    assert warning.startswith("2 of 4 grey images of 16 bits, such as 1.tif, become fewer than 32")
    assert warnings_of(*[wide] * 10, narrow) == []  # such as a dark one


def test_some_colour_images_use_a_small_part():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (4, 1, 3))
    (warning,) = warnings_of(ramp, ramp // 16, lacks_low_bits=True)
    assert warning.startswith("1 of 2 colour images of 16 bits, such as 1.tif, keep")


def test_broken_pixels_do_not_count():
    values = grey(7000, 9000)
    values[0, :5] = 65535
    (warning,) = warnings_of(values)
    assert "values 7002 to 8998" in warning or "values 7001 to 8999" in warning


def test_values_outside_the_range_that_is_set():
    (warning,) = warnings_of(grey(0, 65535), grey_range=GreyRange(0, 32767))
    assert "lie outside the range to 50%" in warning and "WHITE_POINT 32767" in warning


def test_8_bits_and_colours():
    assert warnings_of(np.zeros((4, 4, 3), np.uint8)) == []
    (warning,) = warnings_of(np.full((4, 4, 3), 15, np.uint8), lacks_low_bits=True)
    assert "1 colour images of 16 bits" in warning and "1 of 256 levels are left" in warning
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (4, 1, 3))
    assert warnings_of(ramp, lacks_low_bits=True) == []


def test_bands_that_are_not_read():
    (warning,) = warnings_of(*[np.zeros((4, 4, 3), np.uint8)] * 2, has_other_bands=True)
    assert "2 images, such as 0.tif, have more bands or pages" in warning
