"""What an importer finds in a source: classes, and images with a function that draws their labels.

Shape shorthands: H, W: height and width in pixels; K: number of classes of the source.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# Pixels without a class, as negative indices: the last two entries of a table of K + 2 classes.
UNLABELLED, IGNORED = -1, -2

Color = tuple[int, int, int]


@dataclass(frozen=True)
class SourceClass:
    """A class as the source numbers it.

    Attributes:
        name: the class name.
        id: its number in the source, such as a pixel value or a category id.
        color: its colour (r, g, b).
    """

    name: str
    id: int | None = None
    color: Color | None = None


@dataclass(eq=False)
class Drawing:
    """The label of an image, in the numbering of the source.

    Attributes:
        classes: (H, W) int32, the index of a class in `Source.classes`, UNLABELLED or IGNORED.
        shapes: number of shapes of each class, by index. Empty for masks.
        covered: number of pixels that another class covers, by the indices of the class below and
            of the class above, which may be IGNORED.
        left_out: number of shapes that were not drawn, by reason and class name.
        traced: number of polygons that were traced along pixels (True) or not (False). Polygons
            with few points do not count.
    """

    classes: np.ndarray
    shapes: Counter[int] = field(default_factory=Counter)
    covered: Counter[tuple[int, int]] = field(default_factory=Counter)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    traced: Counter[bool] = field(default_factory=Counter)


@dataclass(frozen=True)
class Item:
    """An image with its annotation.

    Attributes:
        image: the image file; for an embedded image, the file that contains it.
        name: path below images/SPLIT of the new data set, without suffix. Two items may have the
            same name.
        split: "train", "val" or "test", or None if the source does not say.
        draw: draws the label. The argument is the (H, W) of the upright image. Raises InputError.
        embedded: returns the content of an embedded image.
    """

    image: Path
    name: str
    split: str | None
    draw: Callable[[tuple[int, int]], Drawing]
    embedded: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class Source:
    """The result of an importer.

    Attributes:
        classes: K classes, in the order that their ids will have.
        items: the images with annotations, sorted.
        annotations: the files that were read, without images.
        notes: sentences about what was not taken.
    """

    classes: Sequence[SourceClass]
    items: Sequence[Item]
    annotations: Sequence[Path]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Options:
    """Options of the command line that importers read.

    Attributes:
        images: the folder of the images, if it is not where the format has it.
        labels: the folder of the masks, likewise.
        label_suffix: end of the stems of masks, such as "_gtFine_labelIds".
        classes: a class file with the classes of the source.
        ignore: names, ids or colours (r,g,b) of classes whose pixels are ignored.
        renamed: old and new names of classes; an old name may be an id or a colour.
        on_top: "later" or "smaller" shapes cover others; None: as the format says.
        fill: "centre" or "outline", as in `shapes.Style`.
    """

    images: Path | None = None
    labels: Path | None = None
    label_suffix: str | None = None
    classes: Path | None = None
    ignore: Sequence[str] = ()
    renamed: Sequence[tuple[str, str]] = ()
    on_top: str | None = None
    fill: str = "centre"
