from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from sar.data import object_sizes
from sar.data.class_frequency import ClassFrequency
from sar.data.label_files import read_label
from sar.data.object_sizes import ObjectSize, measure_objects, widths_and_areas


def disc(radius):
    axis = np.arange(-radius, radius + 1)
    return axis[:, None] ** 2 + axis**2 <= radius**2


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 16])
def test_lines_are_as_wide_as_they_are(width):
    mask = np.zeros((40, 60), bool)
    mask[5 : 5 + width, 3:50] = True
    np.testing.assert_array_equal(widths_and_areas(mask), [[width, 47 * width]])
    np.testing.assert_array_equal(widths_and_areas(mask.T), [[width, 47 * width]])


def test_objects_at_the_border_end_there():
    np.testing.assert_array_equal(widths_and_areas(np.ones((5, 9), bool)), [[5, 45]])


def test_slanted_and_curved_lines_are_narrow():
    rows, columns = np.mgrid[:90, :90]
    line = np.abs(0.6 * rows - 0.8 * columns) <= 2.5  # 5 pixels wide
    ((width, area),) = widths_and_areas(line)
    assert width == pytest.approx(5, abs=1) and area == line.sum()
    ring = np.pad(disc(20), 5) & ~np.pad(disc(16), 9)
    assert widths_and_areas(ring)[0, 0] == pytest.approx(4, abs=1)


def test_each_object_has_a_width_of_its_own():
    """The width against the distance of each pixel to the nearest pixel outside, in NumPy."""
    mask = np.random.default_rng(3).random((20, 24)) < 0.45
    number, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    fine = np.pad(mask.repeat(2, 0).repeat(2, 1), 1)
    outside = np.argwhere(~fine)
    found = widths_and_areas(mask)
    assert number - 1 == len(found) > 3
    for k, (width, area) in enumerate(found, start=1):
        inside = np.argwhere(np.pad((components == k).repeat(2, 0).repeat(2, 1), 1))
        distances = np.linalg.norm(inside[:, None] - outside, axis=2).min(axis=1)
        assert width == pytest.approx(distances.max(), rel=1e-6)
        assert area == (components == k).sum()


def test_no_object():
    assert widths_and_areas(np.zeros((4, 4), bool)).shape == (0, 2)


@pytest.fixture
def labels(tmp_path):
    """Labels of 100 x 100 pixels: class 1 has thin and thick objects, class 2 is large."""
    files, shown = [], []
    for i in range(30):
        label = np.zeros((100, 100), np.uint8)
        label[:40] = 2
        label[50:52, :50] = 1  # 100 pixels
        label[60:65, :25] = 1  # 125 pixels
        label[80, ::2] = 1  # 50 objects of a pixel
        label[90] = 255
        path = tmp_path / f"{i}.png"
        Image.fromarray(label).save(path)
        files.append(str(path))
        shown.append([0, 1, 2])
    pixels = (30 * 5625, 30 * 275, 30 * 4000)
    return files, shown, ClassFrequency(("a", "b", "c"), 30, (30, 30, 30), pixels, 30 * 100)


def test_half_of_the_pixels_are_in_objects_up_to_the_width(labels):
    # Of 275 pixels, 50 are in objects of one pixel, 100 in the thin and 125 in the thick object.
    sizes = measure_objects(*labels, progress=False)
    assert sizes == {1: ObjectSize(width=2, area=100, num_objects=520, num_labels=10)}


def test_few_labels_are_read_from_first_to_last(labels, monkeypatch):
    files, shown, frequency = labels
    read = []

    def counting_read(file):
        read.append(files.index(file))
        return read_label(file)

    monkeypatch.setattr(object_sizes, "read_label", counting_read)
    shown = [classes if i % 2 else [0, 2] for i, classes in enumerate(shown)]
    frequency = replace(frequency, pixels=(30 * 5625, 15 * 275, 30 * 4000))
    sizes = measure_objects(files, shown, frequency, progress=False)
    assert sizes[1].num_labels == len(read) == 10
    assert min(read) == 1 and max(read) == 29 and all(i % 2 for i in read)


@pytest.mark.parametrize(("megapixels", "expected"), [(1, 10), (0.05, 5), (0.01, 3)])
def test_fewer_labels_are_read_if_they_are_large(labels, monkeypatch, megapixels, expected):
    monkeypatch.setattr(object_sizes, "_MOST_PIXELS", megapixels * 1e6)  # a label has 10,000
    assert measure_objects(*labels, progress=False)[1].num_labels == expected


def test_large_classes_are_not_measured(labels, capsys):
    files, _, frequency = labels
    assert measure_objects(files, [[0, 2]] * 30, frequency) == {}
    assert capsys.readouterr().err == ""


def test_the_smallest_classes_are_measured(labels, monkeypatch):
    monkeypatch.setattr(object_sizes, "_LARGE", 1)
    monkeypatch.setattr(object_sizes, "_MOST_CLASSES", 2)
    assert list(measure_objects(*labels, progress=False)) == [1, 2]
