"""The long tail of a training set: its length, its rare classes, and repetition of their images.

A class can be rare in two senses. Rare by image: few images show it. Rare by pixel: it covers few
pixels, often in many images. They need different remedies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sar.data.class_frequency import ClassFrequency

# A class is rare by image if fewer images show it. DATALOADER.REPEAT_THRESHOLD 1.0 then shows these
# images at least twice as often.
RARE_BY_IMAGE = 0.25
# A class is rare by pixel if it covers less than this part of an equal share, 1 / K.
RARE_BY_PIXEL = 0.1
# A tail is long if the most frequent class has this many times the count of the rarest.
LONG = 10


@dataclass(frozen=True)
class Tail:
    """The tail of the classes by one count, images or pixels. Absent classes are left out.

    Attributes:
        counts: (K,) the counts.
        order: ids of the classes with a count, the most frequent first.
        rare: ids of the classes that are rare by this count, the rarest first.
    """

    counts: Sequence[int]
    order: list[int]
    rare: list[int]

    @property
    def most(self) -> int:
        """The id of the most frequent class."""
        return self.order[0]

    @property
    def least(self) -> int:
        """The id of the rarest class."""
        return self.order[-1]

    @property
    def ratio(self) -> float:
        """The length of the tail: the largest count divided by the smallest one."""
        return self.counts[self.most] / self.counts[self.least]

    @property
    def is_long(self) -> bool:
        return self.ratio >= LONG


def tail_by_image(frequency: ClassFrequency) -> Tail:
    """Return the tail by number of images. A class is rare below RARE_BY_IMAGE of all images."""
    return _tail(frequency.images, RARE_BY_IMAGE * frequency.num_images)


def tail_by_pixel(frequency: ClassFrequency) -> Tail:
    """Return the tail by number of pixels. A class is rare below RARE_BY_PIXEL / K of all pixels.

    K is the number of classes that have pixels.
    """
    num_present = sum(count > 0 for count in frequency.pixels)
    return _tail(frequency.pixels, RARE_BY_PIXEL * sum(frequency.pixels) / max(num_present, 1))


def _tail(counts: Sequence[int], limit: float) -> Tail:
    order = sorted((k for k in range(len(counts)) if counts[k]), key=lambda k: -counts[k])
    return Tail(counts, order, [k for k in reversed(order) if counts[k] < limit])


def describe_ratio(tail: Tail) -> str:
    """Return the length of a tail, such as "33:1", "2.1:1" or "23,013:1"."""
    ratio = tail.ratio
    return f"{ratio:,.0f}:1" if ratio >= LONG else f"{ratio:.1f}:1"


def percent(part: float) -> str:
    """Return a part of 1 as a text with two digits, such as "100%", "7.5%" or "0.0033%"."""
    if part >= 0.995:
        return "100%"
    return f"{100 * part:.2g}%" if part >= 1e-6 or part == 0 else "less than 0.0001%"


def class_repeat_factors(
    frequency: ClassFrequency, threshold: float, *, sqrt: bool = True
) -> list[float]:
    """Return how often repeat-factor sampling shows the images of each class in an epoch.

    This is max(1, sqrt(t / f_c)), with the share f_c of the images that show class c (Gupta et al.,
    "LVIS", CVPR 2019, appendix B.2). An image with several classes is repeated by the largest
    factor. A class that no image shows gets 1.

    Args:
        threshold: t, DATALOADER.REPEAT_THRESHOLD.
        sqrt: False leaves out the square root, as DATALOADER.REPEAT_SQRT does in newer releases of
            detectron2.
    """
    shares = (images / frequency.num_images for images in frequency.images)
    factors = (threshold / share if share else 1.0 for share in shares)
    return [max(1.0, math.sqrt(factor) if sqrt else factor) for factor in factors]
