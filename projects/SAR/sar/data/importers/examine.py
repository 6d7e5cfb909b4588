"""Draw the labels of a source once, and count what they show.

Shape shorthands: H, W: height and width in pixels; K: number of classes of the source.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sar.data.image_files import read_image_size
from sar.data.importers.source import IGNORED, UNLABELLED, Drawing, Item, Source
from sar.data.pillow_files import exif_orientation, swaps_sides, turned_upright
from sar.errors import InputError
from sar.threads import map_ahead

NUM_THREADS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class Counts:
    """The counts of one label.

    Attributes:
        pixels: (K + 2,) pixels of each class; IGNORED and UNLABELLED are the last two.
        drawing: the label's counters; its pixels are dropped.
        is_doubtful: the image has an EXIF orientation, and the size of the label does not tell
            whether the annotation tool applied it.
    """

    pixels: np.ndarray
    drawing: Drawing
    is_doubtful: bool

    @property
    def is_empty(self) -> bool:
        """Return if no pixel has a class or is ignored."""
        return self.pixels[:UNLABELLED].sum() == 0


@dataclass
class Examination:
    """The counts of all items of a source that could be drawn.

    Attributes:
        items: these items.
        counts: their counts.
        errors: one error for each other item.
    """

    items: list[Item] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)


def examine(source: Source, *, quiet: bool) -> Examination:
    """Draw all labels, in threads, with a progress bar unless `quiet`."""
    num_classes = len(source.classes)

    def count(item: Item) -> Counts | InputError:
        try:
            drawing, is_doubtful = draw_upright(item)
        except InputError as error:
            return error
        # IGNORED is -2 and UNLABELLED is -1: the last two counters.
        pixels = np.bincount(drawing.classes.ravel() + 2, minlength=num_classes + 2)
        counters = replace(drawing, classes=np.empty((0, 0)))
        return Counts(np.roll(pixels, -2), counters, is_doubtful)

    result = Examination()
    found = map_ahead(count, source.items, NUM_THREADS)
    bar = tqdm(found, "Reading", len(source.items), unit="image", disable=quiet)
    for item, counts in zip(source.items, bar, strict=True):
        if isinstance(counts, InputError):
            result.errors.append(counts)
        else:
            result.items.append(item)
            result.counts.append(counts)
    return result


def draw_upright(item: Item) -> tuple[Drawing, bool]:
    """Draw a label on the pixels of the upright image.

    The EXIF orientation of an image may turn it. Most annotation tools show the upright image. If
    a label has the size of the stored pixels instead, it is turned like the image.

    Returns:
        The label, and `Counts.is_doubtful`.

    Raises:
        InputError: image or annotation cannot be read, or their sizes differ.
    """
    with image_file(item) as path:
        size, orientation = read_image_size(path), exif_orientation(path)
    drawing = item.draw(size)
    found = drawing.classes.shape
    if swaps_sides(orientation) and found == size[::-1] != size:
        drawing.classes = turned_upright(drawing.classes, orientation)
    elif found != size:
        raise InputError(
            f"{item.image} has {size[1]} x {size[0]} pixels, but its label has {found[1]} x "
            f"{found[0]}: export both again."
        )
    is_doubtful = orientation != 1 and (not swaps_sides(orientation) or size[0] == size[1])
    return drawing, is_doubtful


@contextmanager
def image_file(item: Item) -> Iterator[Path]:
    """Yield the image file of an item; a temporary file for an embedded image."""
    if item.embedded is None:
        yield item.image
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"image in {item.image.name}")
        path.write_bytes(item.embedded())
        yield path


def shown(examination: Examination) -> np.ndarray:
    """Return (N, K) bool: which classes of the source each of N items shows."""
    return np.stack([counts.pixels[:IGNORED] > 0 for counts in examination.counts])


def total(counters: Sequence[Counter]) -> Counter:
    """Return the sum of counters."""
    result: Counter = Counter()
    for counter in counters:
        result.update(counter)
    return result
