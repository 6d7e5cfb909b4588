"""Measure how wide the objects of each class are, in pixels of the label.

An object is a connected component of the pixels of a class (8-connectivity).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from sar.data.class_frequency import ClassFrequency
from sar.data.label_files import read_label
from sar.threads import map_ahead

# Labels that are measured for each class, evenly spaced over the labels that show it. Of large
# labels, fewer are measured: about _MOST_PIXELS in all, but at least _LEAST_LABELS.
_MOST_LABELS, _LEAST_LABELS = 10, 3
_MOST_PIXELS = 20_000_000
# Classes that are measured: the smallest ones.
_MOST_CLASSES = 30
# Larger classes are not measured. This is a share of the pixels of the labels that show the class.
_LARGE = 0.05
_NUM_THREADS = 4


@dataclass(frozen=True)
class ObjectSize:
    """The typical object of a class.

    Attributes:
        width: half of the pixels of the class lie in objects of at most this width. The width of an
            object is the diameter of the largest disc in it: 3 for a line that is 3 pixels wide.
        area: half of the pixels of the class lie in objects of at most this number of pixels.
        num_objects: number of objects that were measured.
        num_labels: number of labels that were measured.
    """

    width: float
    area: int
    num_objects: int
    num_labels: int


def measure_objects(
    label_files: Sequence[str],
    shown: Sequence[Sequence[int]],
    frequency: ClassFrequency,
    *,
    progress: bool = True,
) -> dict[int, ObjectSize]:
    """Measure the objects of the small classes of a data set, on a sample of its labels.

    A class is small if it covers less than 5% of the labels that show it.

    Args:
        label_files: the label of each image.
        shown: the classes that each label shows.
        frequency: the counts of these labels.
        progress: show a progress bar.

    Returns:
        The typical object of each small class, by id.

    Raises:
        InputError: a label is missing or unreadable.
    """
    labels_of: dict[int, list[int]] = {}
    for index, classes in enumerate(shown):
        for k in classes:
            labels_of.setdefault(k, []).append(index)
    area = (sum(frequency.pixels) + frequency.ignored_pixels) / len(label_files)
    shares = {k: frequency.pixels[k] / (len(labels) * area) for k, labels in labels_of.items()}
    smallest = sorted((k for k in shares if shares[k] < _LARGE), key=shares.get)[:_MOST_CLASSES]
    if not smallest:
        return {}
    most = min(max(int(_MOST_PIXELS / area), _LEAST_LABELS), _MOST_LABELS)
    chosen: dict[int, list[int]] = {}  # the classes to measure in each label
    for k in smallest:
        places = np.linspace(0, len(labels_of[k]) - 1, min(most, len(labels_of[k])))
        for place in places.round().astype(int):
            chosen.setdefault(labels_of[k][place], []).append(k)

    def measure(index: int) -> dict[int, np.ndarray]:
        label = read_label(label_files[index])
        return {k: widths_and_areas(label == k) for k in chosen[index]}

    results = map_ahead(measure, sorted(chosen), _NUM_THREADS)
    bar = tqdm(results, "Measuring objects", len(chosen), unit="label", disable=not progress)
    found: dict[int, list[np.ndarray]] = {k: [] for k in smallest}
    for result in bar:
        for k, objects in result.items():
            found[k].append(objects)
    return {k: _typical(objects) for k, objects in found.items()}


def widths_and_areas(mask: np.ndarray) -> np.ndarray:
    """Return the width and the area in pixels of each object of a mask (H, W): (N, 2) float64."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.empty((0, 2))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    _, components, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
    # Two samples per pixel, so that even and odd widths are exact. A border of zeros is outside.
    fine = np.pad(part.repeat(2, axis=0).repeat(2, axis=1), 1)
    distances = cv2.distanceTransform(fine, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    inside = part > 0
    widths = np.zeros(len(stats))
    for samples in (distances[i::2, j::2] for i in (0, 1) for j in (0, 1)):
        np.maximum.at(widths, components[inside], samples[inside].astype(np.float64))
    return np.stack([widths[1:], stats[1:, cv2.CC_STAT_AREA]], axis=1)


def _typical(objects: Sequence[np.ndarray]) -> ObjectSize:
    """Return the medians over pixels of the objects of several labels."""
    widths, areas = np.concatenate(objects).T
    medians = []
    for values in (widths, areas):
        order = values.argsort()
        below = areas[order].cumsum()
        medians.append(values[order][np.searchsorted(below, below[-1] / 2)])
    width, area = medians
    return ObjectSize(round(float(width), 1), int(area), len(areas), len(objects))
