"""Advice on sizes, on both sides of each limit."""

import pytest

from sar.advice.resolution import advise_on_resolution
from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.data.object_sizes import ObjectSize

NAMES = ("road", "pole", "sign")
COUNTS = ClassFrequency(NAMES, 9, (9, 9, 9), (900, 50, 50), 0)
RANGE = ["INPUT.MIN_SIZE_TRAIN", "256,1024", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"]
CROP = ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "512"]
BASE = [*RANGE, *CROP, "INPUT.MAX_SIZE_TRAIN", "4096", "INPUT.MIN_SIZE_TEST", "0"]


def advice(shape, widths, *overrides, sizes=None):
    objects = {k: ObjectSize(width, 90, 5, 3) for k, width in widths.items()}
    cfg = load_config("", [*BASE, *overrides])
    items = advise_on_resolution(COUNTS, sizes or {shape: 9}, objects, cfg)
    for item in items:  # all keys are valid
        load_config("", [word for pair in item.keys.items() for word in pair])
    return {item.topic: item for item in items}


def test_narrow_objects_that_survive_need_no_key():
    found = advice((360, 480), {1: 12, 2: 6})
    assert found["image size"].keys == {} and found["small objects"].keys == {}
    assert "480 x 360 pixels (width x height)" in found["image size"].text
    assert "256-1024 pixels, 0.71 to 2.8 times its size. Evaluation keeps it." in (
        found["image size"].text
    )
    text = found["small objects"].text
    assert "sign 6, pole 12" in text
    assert "In the smallest training images, all are at least 4 pixels wide." in text
    assert "In evaluation, all are at least 4 pixels wide." in text


@pytest.mark.parametrize(
    ("width", "smallest"),
    [(5.625, None), (5.6, 288), (5, 288), (4.5, 320), (3, 480), (2, 736), (1, 736)],
)
def test_the_smallest_training_image_keeps_the_narrowest_object(width, smallest):
    """4 * 360 / width, rounded up to a multiple of 32, and at most twice the image."""
    found = advice((360, 480), {1: 12, 2: width})
    keys = {} if smallest is None else {"INPUT.MIN_SIZE_TRAIN": f"{smallest},1024"}
    assert found["image size"].keys == keys
    text = found["small objects"].text
    assert ("In the smallest training images, all are" in text) == (smallest is None)
    if width == 5:
        assert (
            "smallest training images, these are narrower: sign (3.6). In evaluation, all" in text
        )


@pytest.mark.parametrize(("width", "edge"), [(4, None), (3.9, "384"), (1, "736")])
def test_narrow_objects_enlarge_the_images_of_an_evaluation(width, edge):
    keys = advice((360, 480), {2: width})["small objects"].keys
    assert keys == ({} if edge is None else {"INPUT.MIN_SIZE_TEST": edge})


def test_an_enlarged_image_fits_the_longest_edge_of_an_evaluation():
    keys = advice((360, 1000), {2: 2.1})["small objects"].keys
    assert keys == {"INPUT.MIN_SIZE_TEST": "704", "INPUT.MAX_SIZE_TEST": "1956"}


def test_an_enlarged_image_fits_the_longest_edge_of_a_training():
    """Otherwise, training would use one size, and the same advice would come again."""
    key, limit = "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN"
    keys = advice((4000, 6000), {2: 2})["image size"].keys
    assert keys == {key: "4000,5024", limit: "7536"}
    pairs = [word for pair in keys.items() for word in pair]
    assert advice((4000, 6000), {2: 2}, *pairs)["image size"].keys == {}
    keys = advice((4000, 6000), {2: 2}, limit, "7536")["image size"].keys
    assert keys == {key: "4000,5024"}


def test_the_stride_of_the_model_decides():
    words = ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "8")
    found = advice((360, 480), {2: 10}, *words)
    assert found["image size"].keys == {"INPUT.MIN_SIZE_TRAIN": "288,1024"}
    assert "at least 8 pixels" in found["small objects"].text


def test_sizes_of_a_choice_become_a_range():
    words = ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice", "INPUT.MIN_SIZE_TRAIN", "256,320,640")
    assert advice((360, 480), {2: 5}, *words)["image size"].keys == {
        "INPUT.MIN_SIZE_TRAIN": "288,640",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
    }


@pytest.mark.parametrize(("edge", "expected"), [(256, None), (255, "128,512"), (96, "64,192")])
def test_small_images_are_not_enlarged_too_much(edge, expected):
    found = advice((edge, 300), {2: 50})["image size"]
    assert found.keys == ({} if expected is None else {"INPUT.MIN_SIZE_TRAIN": expected})
    assert ("More than 4 times" in found.text) == (expected is not None)


def test_images_that_are_not_resized():
    found = advice((360, 480), {2: 50}, "INPUT.MIN_SIZE_TRAIN", "0,0")["image size"]
    assert "360-360 pixels, 1 to 1 times" in found.text and found.keys == {}


@pytest.mark.parametrize(("longest", "expected"), [(512, None), (481, None), (480, "480,480")])
def test_a_crop_larger_than_all_images_is_padding(longest, expected):
    found = advice((200, 300), {}, "INPUT.MIN_SIZE_TRAIN", f"64,{longest}")["crop"]
    assert found.keys == ({} if expected is None else {"INPUT.CROP.SIZE": expected})
    sentence = f"The shorter edge has at most {longest} pixels, and padding fills the rest"
    assert (sentence in found.text) == (expected is not None)


def test_the_part_of_an_image_that_a_crop_shows():
    same = ("INPUT.MIN_SIZE_TRAIN", "1024,1024")
    # A fourth of 1024 x 1024 pixels, and less than a fourth of 1024 x 1025.
    found = advice((1024, 1024), {}, *same)["crop"]
    assert "shows 25% of a resized image" in found.text and "memory" not in found.text
    found = advice((1024, 1100), {}, *same)["crop"]
    assert "set INPUT.CROP.SIZE 768,768, which needs 2.2 times as much" in found.text
    assert found.keys == {}  # the user decides about the memory


def test_no_crop_above_1024_pixels_is_advised():
    same = ("INPUT.MIN_SIZE_TRAIN", "4000,4000")
    assert "set INPUT.CROP.SIZE 1024,1024" in advice((4000, 4000), {}, *same)["crop"].text
    text = advice((4000, 4000), {}, *same, "INPUT.CROP.SIZE", "1024")["crop"].text
    assert text.endswith(
        "shows 7% of a resized image on average. It misses many rare objects of its image. "
        "INPUT.CROP.CLASS_UNIFORM 0.5 draws half of the crops around a random class."
    )


def test_large_images_are_not_enlarged_for_narrow_objects():
    found = advice((800, 900), {2: 1})
    assert found["image size"].keys == {"INPUT.MIN_SIZE_TRAIN": "1024,1280"}
    assert found["small objects"].keys == {"INPUT.MIN_SIZE_TEST": "1024"}
    found = advice((2176, 3000), {2: 1})
    assert found["image size"].keys == {"INPUT.MIN_SIZE_TRAIN": "2176,2720"}
    assert found["small objects"].keys == {}
    assert "In evaluation, these are narrower: sign (1.0)." in found["small objects"].text


def test_crops_of_another_type_and_none():
    relative = ("INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", "0.5")
    assert "no fixed size" in advice((360, 480), {}, *relative)["crop"].text
    assert advice((360, 480), {}, "INPUT.CROP.ENABLED", "False")["crop"].text.startswith(
        "Crops are not used"
    )


def test_the_median_image_is_taken():
    sizes = {(100, 900): 2, (700, 600): 4, (300, 400): 3}
    assert "400 x 300" in advice(None, {}, sizes=sizes)["image size"].text
