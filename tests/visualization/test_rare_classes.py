import numpy as np

from sar.visualization.overlay import fitted, label_font
from sar.visualization.rare_classes import PANEL, Example, draw_rare_classes

COLORS = np.array([[0, 0, 255], [0, 255, 0], [255, 255, 0]], dtype=np.uint8)
RED = (220, 30, 30)


def example(shape=(150, 200), place=(100, 120), size=20):
    truth = np.zeros(shape, dtype=np.uint8)
    truth[:4, :4] = 1  # smaller than the object below
    rows, columns = (slice(first, first + size) for first in place)
    truth[rows, columns] = 1
    missed = np.zeros(shape, dtype=np.uint8)
    half = missed.copy()
    half[rows, columns] = 1
    image = np.full((*shape, 3), 90, dtype=np.uint8)
    return Example("rare: 3 training images", 1, image, truth, {"plain": missed, "better": half})


def panels(picture):
    pixels = np.asarray(picture)
    return [
        pixels[:, 8 + i * (PANEL + 8) : 8 + i * (PANEL + 8) + PANEL]
        for i in range(picture.width // (PANEL + 8))
    ]


def share(panel, color):
    return (panel == np.array(color)).all(axis=2).sum() / PANEL**2


def test_panels_show_the_largest_object_in_a_frame():
    _, truth, missed, found = panels(draw_rare_classes([example()], COLORS))
    # A window of 96 pixels around an object of 20 x 20. The frame is outside of the object.
    assert share(truth, COLORS[1]) == share(found, COLORS[1])
    np.testing.assert_allclose(share(truth, COLORS[1]), (20 / 96) ** 2, rtol=0.1)
    assert share(missed, COLORS[1]) == 0
    frames = [np.argwhere((panel == np.array(RED)).all(axis=2)) for panel in (truth, missed, found)]
    assert all(len(frame) > 100 and np.array_equal(frame, frames[0]) for frame in frames)
    (top, left), (bottom, right) = frames[0].min(axis=0), frames[0].max(axis=0)
    assert abs((bottom - top) - 25 / 96 * PANEL) < 3 and abs((right - left) - 25 / 96 * PANEL) < 3


def test_images_smaller_than_the_window_and_objects_at_the_border():
    for shape, place, size in (((40, 60), (20, 40), 20), ((300, 90), (0, 0), 80)):
        examples = [example(shape, place, size)] * 2
        picture = draw_rare_classes(examples, COLORS)
        assert all(share(panel, COLORS[1]) > 0.1 for panel in panels(picture)[1:2])
        assert picture.width == 8 + 4 * (PANEL + 8)


def test_long_texts_end_before_the_next_panel():
    for text, start, end in (
        ("recommended_sem_fpn_efficientnet_lite0", "recommended", "net_lite0"),
        ("traffic_light_of_the_other_road: 1234 training images", "traffic", "images"),
    ):
        shown = fitted(text, PANEL)
        assert label_font().getlength(shown) <= PANEL < label_font().getlength(text)
        assert shown.startswith(start) and shown.endswith(end) and "…" in shown
    assert fitted("short", PANEL) == "short" and fitted("", PANEL) == ""
