import numpy as np
import pytest
from PIL import Image, ImageEnhance

import sar  # noqa: F401
from sar.data.augmentation import (
    ColorJitter,
    GeometricTransform,
    RandomCrop,
    RandomScaleCropFlip,
    pad,
    resize_shortest_edge,
)
from sar.errors import InputError

from detectron2.data.transforms import ResizeShortestEdge


def _random_transform(rng, max_source=70, max_scaled=110):
    source = tuple(int(n) for n in rng.integers(3, max_source, 2))
    # Also round ratios, at which pixel centres fall on borders of pixels.
    scaled = (
        tuple(int(n) for n in rng.integers(3, max_scaled, 2))
        if rng.random() < 0.7
        else tuple(max(n * int(rng.integers(1, 5)) // int(rng.integers(1, 5)), 1) for n in source)
    )
    shape = tuple(int(rng.integers(1, n + 1)) for n in scaled)
    top, left = (int(rng.integers(n - size + 1)) for n, size in zip(scaled, shape, strict=True))
    flip = str(rng.choice(["none", "horizontal", "vertical"]))
    return GeometricTransform(source, scaled, top, left, shape, flip)


def _resize_then_crop(array, transform, resample):
    """The whole resized by Pillow, then cropped, then flipped."""
    height, width = transform.scaled_shape
    whole = np.asarray(Image.fromarray(array).resize((width, height), resample))
    h, w = transform.shape
    crop = whole[transform.top : transform.top + h, transform.left : transform.left + w]
    flips = {"none": crop, "horizontal": np.fliplr(crop), "vertical": np.flipud(crop)}
    return flips[transform.flip]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_is_pillows_nearest(dtype):
    rng = np.random.default_rng(0)
    for _ in range(300):
        transform = _random_transform(rng)
        label = rng.integers(0, np.iinfo(dtype).max, transform.source_shape, dtype, endpoint=True)
        # Pillow's own resize of its 16-bit mode is not the one it uses for the others
        expected = _resize_then_crop(
            label if dtype == np.uint8 else label.astype(np.int32),
            transform,
            Image.Resampling.NEAREST,
        )
        actual = transform.apply_label(label)
        assert actual.dtype == dtype
        np.testing.assert_array_equal(actual, expected)


def test_image_is_crop_of_the_resized_whole():
    rng = np.random.default_rng(1)
    for _ in range(100):
        transform = _random_transform(rng)
        image = rng.integers(0, 256, (*transform.source_shape, 3), np.uint8)
        expected = _resize_then_crop(image, transform, Image.Resampling.BILINEAR)
        actual = transform.apply_image(image)
        assert actual.shape == (*transform.shape, 3) and actual.dtype == np.uint8
        # To the very edge of the crop, but for rounding: Pillow keeps the box as 32-bit floats, and
        # rounds to 8 bits after each of its two passes.
        assert np.abs(actual.astype(int) - expected).max() <= 2


def test_same_size_is_sliced_exactly():
    rng = np.random.default_rng(2)
    image, label = rng.integers(0, 256, (9, 7, 3), np.uint8), rng.integers(0, 256, (9, 7), np.uint8)
    transform = GeometricTransform((9, 7), (9, 7), 2, 1, (5, 4), "horizontal")
    np.testing.assert_array_equal(transform.apply_image(image), image[2:7, 1:5][:, ::-1])
    np.testing.assert_array_equal(transform.apply_label(label), label[2:7, 1:5][:, ::-1])


def test_image_and_label_stay_together():
    # Blocks of 16 pixels whose colour is their id: away from their borders both agree.
    ids = np.arange(64, dtype=np.uint8).reshape(8, 8).repeat(16, 0).repeat(16, 1)
    image = np.repeat(ids[:, :, None] * 4, 3, axis=2)
    rng = np.random.default_rng(3)
    crop = RandomCrop("absolute", (64, 96))
    augment = RandomScaleCropFlip((100, 160), sampling="range", crop=crop)
    for _ in range(20):
        transform = augment(ids, rng)
        expected = transform.apply_label(ids).astype(int) * 4
        agree = transform.apply_image(image)[:, :, 0] == expected
        assert agree.mean() > 0.7


@pytest.mark.parametrize("max_size", [600, 1333, 10**6])
def test_resized_shape_is_detectron2s(max_size):
    rng = np.random.default_rng(4)
    shapes = [tuple(int(n) for n in rng.integers(20, 2500, 2)) for _ in range(3000)]
    shapes += [(n, n) for n in range(50, 700, 7)] + [(360, 480), (480, 360), (1024, 2048)]
    for shape in shapes:
        short_edge = int(rng.integers(20, 1500))
        expected = ResizeShortestEdge.get_output_shape(*shape, short_edge, max_size)
        assert resize_shortest_edge(shape, short_edge, max_size).scaled_shape == expected


def test_test_time_resize_is_detectron2s():
    image = np.random.default_rng(5).integers(0, 256, (37, 53, 3), np.uint8)
    for short_edge in (20, 37, 64):
        expected = ResizeShortestEdge(short_edge, 90).get_transform(image).apply_image(image)
        actual = resize_shortest_edge((37, 53), short_edge, 90).apply_image(image)
        np.testing.assert_array_equal(actual, expected)


def test_short_edge_of_zero_leaves_the_size():
    assert resize_shortest_edge((31, 17), 0).scaled_shape == (31, 17)


def test_very_long_image_keeps_a_pixel():
    assert resize_shortest_edge((2, 9000), 10, 100).scaled_shape == (1, 100)


def test_short_edges_are_drawn_as_asked():
    label = np.zeros((40, 60), np.uint8)
    rng = np.random.default_rng(6)

    def short_edges(sampling):
        augment = RandomScaleCropFlip((20, 24), sampling=sampling)
        return {augment(label, rng).scaled_shape[0] for _ in range(200)}

    assert short_edges("choice") == {20, 24}
    assert short_edges("range") == {20, 21, 22, 23, 24}


@pytest.mark.parametrize(
    "type, size, low, high",
    [
        ("absolute", (32, 500), (32, 150), (32, 150)),
        ("absolute_range", (20, 120), (20, 20), (100, 120)),
        ("relative", (0.5, 0.3), (50, 45), (50, 45)),
        ("relative_range", (0.5, 0.8), (50, 120), (100, 150)),
    ],
)
def test_crop_shapes(type, size, low, high):
    rng = np.random.default_rng(7)
    crop = RandomCrop(type, size)
    shapes = np.array([crop.draw_shape((100, 150), rng) for _ in range(2000)])
    np.testing.assert_array_equal(shapes.min(0), low)
    np.testing.assert_array_equal(shapes.max(0), high)


def test_crops_reach_every_corner():
    rng = np.random.default_rng(8)
    augment = RandomScaleCropFlip((0,), crop=RandomCrop("absolute", (3, 3)))
    drawn = [augment(np.zeros((5, 6), np.uint8), rng) for _ in range(500)]
    assert {(t.top, t.left) for t in drawn} == {(y, x) for y in range(3) for x in range(4)}
    assert 150 < sum(t.flip == "horizontal" for t in drawn) < 350


@pytest.mark.parametrize("dtype, ignore", [(np.uint8, 255), (np.uint16, 255), (np.uint16, 65535)])
def test_category_share_is_limited(dtype, ignore):
    # Left half class 0, right half class 1; the top is ignored and must not count as a class.
    label = np.zeros((60, 200), dtype)
    label[:, 100:] = 1
    label[:20] = ignore
    rng = np.random.default_rng(9)
    crop = RandomCrop("absolute", (40, 150))

    def greatest_shares(max_share):
        augment = RandomScaleCropFlip(
            (0,), crop=crop, max_category_share=max_share, ignore_label=ignore
        )
        for _ in range(100):
            counts = np.bincount(augment(label, rng).apply_label(label).ravel())[:2]
            yield counts.max() / counts.sum()

    assert max(greatest_shares(1.0)) > 0.62
    assert max(greatest_shares(0.6)) < 0.6


def test_category_limit_falls_back_after_ten_tries():
    class CountingCrop(RandomCrop):
        drawn = 0

        def draw_shape(self, shape, rng):
            self.drawn += 1
            return super().draw_shape(shape, rng)

    for value in (3, 255):
        crop = CountingCrop("absolute", (10, 10))
        augment = RandomScaleCropFlip((0,), crop=crop, max_category_share=0.75)
        label = np.full((30, 30), value, np.uint8)
        assert augment(label, np.random.default_rng(10)).shape == (10, 10)
        assert crop.drawn == 10


@pytest.mark.parametrize("dtype, ignore", [(np.uint8, 255), (np.uint16, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("short_edge", [0, 20, 33, 90, 170])
def test_class_uniform_crop_contains_its_pixel(short_edge, dtype, ignore):
    rng = np.random.default_rng(14)
    augment = RandomScaleCropFlip(
        (short_edge,),
        crop=RandomCrop("absolute_range", (3, 30)),
        class_uniform=1.0,
        ignore_label=ignore,
    )
    for _ in range(100):
        label = np.full((40, 60), ignore, dtype)
        pixel = rng.integers(40), rng.integers(60)
        label[pixel] = 3
        drawn = augment(label, rng)
        scale = np.divide(drawn.scaled_shape, label.shape)
        middle = (np.array(pixel) + 0.5) * scale - (drawn.top, drawn.left)
        assert (middle >= 0).all() and (middle < drawn.shape).all()
        if (scale >= 1).all():  # otherwise, nearest neighbour can lose the pixel
            assert (drawn.apply_label(label) == 3).any()


def test_class_uniform_crops_are_uniform_over_classes_pixels_and_places():
    # Class 1 has one pixel of 1,200, class 2 two far from each other, and 255 does not count.
    label = np.zeros((30, 40), np.uint8)
    label[12, 20], label[2, 3], label[27, 36], label[:, 30] = 1, 2, 2, 255
    rng = np.random.default_rng(15)
    augment = RandomScaleCropFlip((0,), crop=RandomCrop("absolute", (4, 5)), class_uniform=1.0)
    drawn = [augment(label, rng) for _ in range(6000)]
    shown = [np.unique(transform.apply_label(label)) for transform in drawn]
    share_of_1, share_of_2 = (np.mean([k in classes for classes in shown]) for k in (1, 2))
    # A third of the crops, and a few of the third for class 0.
    assert 0.32 < share_of_1 < 0.38 and 0.32 < share_of_2 < 0.38
    first = np.mean([t.top <= 2 < t.top + 4 and t.left <= 3 < t.left + 5 for t in drawn])
    assert 0.15 < first < 0.2
    places = {(t.top, t.left) for t, classes in zip(drawn, shown, strict=True) if 1 in classes}
    assert places == {(top, left) for top in range(9, 13) for left in range(16, 21)}


def test_class_uniform_crops_are_limited_in_their_own_class():
    # A small class, 2, deep inside class 0: a crop around it has more than 75% of class 0.
    label = np.zeros((300, 400), np.uint8)
    label[150:] = 1
    label[40:50, 60:70] = 2
    rng = np.random.default_rng(18)

    def share_of_2(**kwargs):
        crop = RandomCrop("absolute", (96, 96))
        augment = RandomScaleCropFlip((0,), crop=crop, class_uniform=1.0, **kwargs)
        labels = [augment(label, rng).apply_label(label) for _ in range(1000)]
        return np.mean([(crop == 2).any() for crop in labels])

    # With the limit, a crop inside class 0 or 1 is drawn again, until it is for class 2.
    assert 0.33 < share_of_2() < 0.5 and share_of_2(max_category_share=0.75) > 0.65


def test_class_uniform_share_of_the_crops():
    label = np.zeros((100, 100), np.uint8)
    label[99, 0] = 1
    rng = np.random.default_rng(16)

    def share(class_uniform):
        augment = RandomScaleCropFlip(
            (0,), crop=RandomCrop("absolute", (5, 5)), class_uniform=class_uniform
        )
        return np.mean([(augment(label, rng).apply_label(label) == 1).any() for _ in range(3000)])

    assert share(0.0) < 0.01 and 0.22 < share(0.5) < 0.28 and 0.46 < share(1.0) < 0.54


def test_class_uniform_crop_of_an_image_without_classes():
    label = np.full((30, 40), 255, np.uint8)
    crop = RandomCrop("absolute", (10, 10))
    augment = RandomScaleCropFlip((0,), crop=crop, class_uniform=1.0)
    rng = np.random.default_rng(17)
    places = {(t.top, t.left) for t in (augment(label, rng) for _ in range(200))}
    assert len(places) > 100


def test_pad_fills_bottom_and_right():
    image = np.full((2, 3, 3), 9, np.uint8)
    padded = pad(image, (4, 5), (103.53, 116.28, 123.675))
    np.testing.assert_array_equal(padded[:2, :3], image)
    for rest in (padded[2:], padded[:, 3:]):
        assert rest.dtype == np.uint8 and (rest == (104, 116, 124)).all()
    label = pad(np.zeros((2, 3), np.uint16), (4, 5), 65535)
    assert label.dtype == np.uint16 and (label == 65535).sum() == 4 * 5 - 2 * 3
    assert pad(label, (4, 5), 0) is label


def _enhanced(image, order, factors):
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    result = Image.fromarray(image)
    for i in order:
        result = enhancers[i](result).enhance(factors[i])
    return np.asarray(result)


def test_color_jitter_is_three_enhancements_in_some_order():
    image = np.random.default_rng(11).integers(0, 256, (20, 30, 3), np.uint8)
    jitter = ColorJitter(0.4)
    orders = set()
    for seed in range(30):
        actual = jitter(image, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        factors = rng.uniform(0.6, 1.4, 3)
        order = tuple(int(i) for i in rng.permutation(3))
        orders.add(order)
        np.testing.assert_array_equal(actual, _enhanced(image, order, factors))
    assert len(orders) == 6


def test_color_jitter_of_nothing_changes_nothing():
    image = np.random.default_rng(12).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(ColorJitter(0)(image, np.random.default_rng(0)), image)


def test_saturation_takes_red_for_red():
    # Grey of pure red is 76 (0.299), of pure blue 29 (0.114).
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 0] = 255
    np.testing.assert_array_equal(_enhanced(red, [2], [0, 0, 0.0])[0, 0], [76, 76, 76])


def test_same_generator_same_draws():
    label = np.random.default_rng(13).integers(0, 5, (50, 60), np.uint8)
    augment = RandomScaleCropFlip(
        (30, 90),
        sampling="range",
        crop=RandomCrop("relative_range", (0.4, 0.4)),
        max_category_share=0.75,
    )
    first, again, other = (augment(label, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: RandomCrop("absolut", (2, 2)), ["INPUT.CROP.TYPE", 'mean "absolute"']),
        (lambda: RandomCrop("relative_range", (512, 512)), ["INPUT.CROP.SIZE", "(512, 512)"]),
        (lambda: RandomCrop("absolute", (0.9, 0.9)), ["INPUT.CROP.SIZE", "pixels"]),
        (lambda: RandomCrop("absolute", (512,)), ["INPUT.CROP.SIZE"]),
        (lambda: RandomCrop("absolute_range", (9, 5)), ["INPUT.CROP.SIZE", "range"]),
        (
            lambda: RandomScaleCropFlip((32,), class_uniform=1.5),
            ["INPUT.CROP.CLASS_UNIFORM 1.5", "0 for"],
        ),
        (lambda: RandomScaleCropFlip(()), ["INPUT.MIN_SIZE_TRAIN"]),
        (lambda: RandomScaleCropFlip((-3,)), ["INPUT.MIN_SIZE_TRAIN"]),
        (lambda: RandomScaleCropFlip((3,), sampling="range"), ["INPUT.MIN_SIZE_TRAIN"]),
        (lambda: RandomScaleCropFlip((3,), sampling="rang"), ["MIN_SIZE_TRAIN_SAMPLING", "range"]),
        (lambda: RandomScaleCropFlip((3,), flip="horizontl"), ["INPUT.RANDOM_FLIP", "horizontal"]),
        (lambda: RandomScaleCropFlip((3,), max_category_share=75), ["SINGLE_CATEGORY_MAX_AREA"]),
        (lambda: ColorJitter(1.5), ["INPUT.COLOR_JITTER", "1.5"]),
    ],
)
def test_bad_values_name_their_key(make, words):
    with pytest.raises(InputError) as error:
        make()
    for word in words:
        assert word in str(error.value)
