import cv2
import numpy as np
import pytest

from sar.data.importers.shapes import (
    Patch,
    Shape,
    Style,
    box,
    draw_shapes,
    polygon,
    polygons,
    runs,
)
from sar.data.importers.source import IGNORED, UNLABELLED

SIZE = 40, 60
STYLE = Style(small_on_top=False, outline=False)
OUTLINE = Style(small_on_top=False, outline=True)


def draw(*regions, style=STYLE):
    shapes = [Shape(i, f"class {i}", f"shape {i}", r, "polygon") for i, r in enumerate(regions)]
    return draw_shapes(SIZE, SIZE, shapes, "file", style)


def star(seed):
    """A polygon around a point near the border, partly outside the image."""
    rng = np.random.default_rng(seed)
    angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 8)), rng.uniform(4, 16, 8)
    x, y = rng.uniform(2, SIZE[1] - 2), rng.uniform(2, SIZE[0] - 2)
    return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)


def centres_inside(points):
    """Count the crossings of a ray from each pixel centre, in float64."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    inside = np.zeros(SIZE, bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 <= y) != (y1 <= y)
            inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def distance_to_outline(points):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    result = np.full(SIZE, np.inf)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        result = np.minimum(result, np.hypot(x - x0 - along * dx, y - y0 - along * dy))
    return result


def test_polygons_have_the_pixels_whose_centres_are_inside():
    excess, total = 0, 0
    for seed in range(60):
        points = star(seed)
        found, expected = draw(polygon(points)).classes == 0, centres_inside(points)
        # pycocotools rounds points to a fifth of a pixel.
        clear = distance_to_outline(points) > 0.4
        np.testing.assert_array_equal(found[clear], expected[clear])
        excess += int(found.sum()) - int(expected.sum())
        total += int(expected.sum())
    assert total > 5000 and abs(excess) < 0.005 * total


def test_the_outline_makes_drawn_polygons_larger():
    """By 14%, as docs/import.md says: 16 points, 7 to 9 pixels from the centre."""
    rng = np.random.default_rng(0)
    found, area = 0, 0.0
    for _ in range(300):
        angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 16)), rng.uniform(7, 9, 16)
        x, y = rng.uniform(20, 21, (2, 1)) + radii * [np.cos(angles), np.sin(angles)]
        found += (draw(polygon(np.stack([x, y], axis=1)), style=OUTLINE).classes == 0).sum()
        area += (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
    assert found / area == pytest.approx(1.14, abs=0.01)


def test_traced_polygons_with_their_outline_are_the_mask_again():
    rng = np.random.default_rng(0)
    mask = cv2.resize(rng.integers(0, 2, (10, 15)).astype(np.uint8), SIZE[::-1], interpolation=0)
    mask[5, :] = 0
    mask[5, 3:30] = 1  # a line of one pixel
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outer = np.zeros_like(mask)
    cv2.drawContours(outer, contours, -1, 1, cv2.FILLED)
    for offset in (0, 0.5):
        regions = [polygon(contour[:, 0] + offset) for contour in contours]
        shapes = [Shape(0, "a", "b", region, "polygon") for region in regions]
        found = draw_shapes(SIZE, SIZE, shapes, "file", OUTLINE).classes == 0
        np.testing.assert_array_equal(found, outer == 1)
        inside = draw_shapes(SIZE, SIZE, shapes, "file", STYLE)
        assert (inside.classes == 0).sum() < outer.sum()
        assert inside.traced[True] > 0 == inside.traced[False]
    assert draw(polygon(star(0))).traced == {False: 1} and not draw(box(1, 1, 5, 5)).traced


def test_rings_are_united_and_boxes_are_exact():
    rings = [[(1, 1), (9, 1), (9, 9), (1, 9)], [(5, 5), (20, 5), (20, 12), (5, 12)]]
    expected = np.full(SIZE, UNLABELLED)
    expected[1:9, 1:9] = expected[5:12, 5:20] = 0
    np.testing.assert_array_equal(draw(polygons(rings)).classes, expected)
    expected[:] = UNLABELLED
    expected[0:4, 50:60] = 0
    np.testing.assert_array_equal(draw(box(50, -3, 70, 4)).classes, expected)


def test_what_is_on_top_and_what_is_covered():
    large, small = box(0, 0, 20, 10), box(5, 5, 25, 8)
    drawing = draw(large, small)
    assert (drawing.classes == 1).sum() == 60 and drawing.covered == {(0, 1): 45}
    drawing = draw(small, large)
    assert (drawing.classes == 0).sum() == 15 and drawing.covered == {(0, 1): 45}
    drawing = draw(small, large, style=Style(small_on_top=True, outline=False))
    assert (drawing.classes == 0).sum() == 60 and drawing.covered == {(1, 0): 45}
    assert drawing.shapes == {0: 1, 1: 1}
    ignored = Shape(IGNORED, "x", "y", large, "polygon")
    found = draw_shapes(SIZE, SIZE, [Shape(0, "x", "y", small, "polygon"), ignored], "file", STYLE)
    assert (found.classes == IGNORED).sum() == 200 and found.covered == {(0, IGNORED): 45}


def test_shapes_without_a_pixel_are_counted():
    drawing = draw(
        polygon([(1, 1), (9, 9)]), polygon([(3.6, 3), (3.9, 3), (3.9, 30)]), box(-9, -9, 0, 0)
    )
    assert (drawing.classes == UNLABELLED).all() and not drawing.shapes
    reason = "polygon that covers no pixel centre"
    assert drawing.left_out == {(reason, f"class {i}"): 1 for i in range(3)}


@pytest.mark.parametrize("order", ["C", "F"])
def test_runs(order):
    mask = np.random.default_rng(0).random((7, 9)) < 0.5
    values = [False, *mask.ravel(order=order)]
    ends = np.flatnonzero(np.diff(values)) + 1
    counts = np.diff([1, *ends, len(values)])
    np.testing.assert_array_equal(runs(counts.tolist(), mask.shape, order), mask)
    with pytest.raises(ValueError, match="cover 14 pixels, but the mask has 9 x 7"):
        runs([5, 9], mask.shape, order)
    for wrong in ([-1, 64], [1.5, 61.5], [[1], [62]], []):
        with pytest.raises(ValueError, match="whole numbers"):
            runs(wrong, mask.shape, order)


@pytest.mark.parametrize("small_on_top", [False, True])
def test_masks_as_large_as_the_image(small_on_top):
    """They are cut to their shapes, so that many of them fit into memory."""
    places = [(slice(3, 30), slice(5, 50)), (slice(10, 20), slice(0, 60)), (slice(12, 14), 7)]

    def whole(place):
        mask = np.zeros(SIZE, bool)
        mask[place] = True
        return lambda size, outline: Patch(0, 0, mask)

    found = draw(*map(whole, places), style=Style(small_on_top=small_on_top, outline=False))
    expected = np.full(SIZE, UNLABELLED)
    for index, place in enumerate(places):
        expected[place] = index
    np.testing.assert_array_equal(found.classes, expected)
