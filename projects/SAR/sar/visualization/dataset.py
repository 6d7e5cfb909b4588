"""Draw a data set: how often its classes occur, and some of its images with labels.

Shape shorthands: H x W pixels, K classes.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sar.data.class_frequency import ClassFrequency
from sar.data.tail import describe_ratio, percent, tail_by_image, tail_by_pixel
from sar.data.units import IMAGES, Units
from sar.errors import printable
from sar.evaluation.class_groups import class_groups
from sar.evaluation.table import GROUP_NAMES
from sar.visualization.overlay import draw_overlay

GROUP_COLORS = {"f": (44, 110, 160), "c": (222, 150, 40), "r": (190, 50, 50)}
UNGROUPED_COLOR = (110, 110, 110)
MARGIN = 12  # pixels, as all sizes below
TEXT_SIZE = 13
ROW = 18
PANEL_WIDTH = 300
NUMBER_WIDTH = 150
TILE_WIDTH = 320
_TALLEST_TILE = 4 * TILE_WIDTH  # higher images are squeezed: a JPEG has at most 65,500 rows


def plot_class_frequency(
    frequency: ClassFrequency, *, with_groups: bool = True, units: Units = IMAGES
) -> Image.Image:
    """Draw bars of the images and pixels of each class, on linear axes that start at 0.

    Each of the two charts has its own order, with the most frequent class at the top. So the bars
    have the shape of the tail. A class without a pixel has no bar.

    Args:
        frequency: counts of K classes. At least one class has a pixel.
        with_groups: colour the frequent, common and rare classes, by images and by pixels. Use this
            for counts of a training set.
        units: what the titles call the samples and their parts.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    names = list(map(printable, frequency.class_names))
    names_width = int(max(map(font.getlength, names))) + 2 * MARGIN
    panel = names_width + PANEL_WIDTH + NUMBER_WIDTH
    top = MARGIN + (3 if with_groups else 2) * ROW
    canvas = Image.new("RGB", (2 * panel, top + len(names) * ROW + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    if with_groups:
        left = names_width
        for group, name in GROUP_NAMES.items():
            draw.rectangle((left, MARGIN + 2, left + 12, MARGIN + 14), fill=GROUP_COLORS[group])
            draw.text((left + 18, MARGIN), name, fill="black", font=font)
            left += 40 + int(font.getlength(name))
    images, pixels = frequency.images, frequency.pixels
    for number, (what, tail, total, ties_by) in enumerate(
        (
            (f"{units.sample}s", tail_by_image(frequency), frequency.num_images, pixels),
            (f"{units.part}s", tail_by_pixel(frequency), sum(pixels), images),
        )
    ):
        left = number * panel + names_width
        title = f"{what} of each class ({describe_ratio(tail)})"
        draw.text((left, top - 1.5 * ROW), title, fill="black", font=font)
        group_of = {}
        if with_groups:
            groups = class_groups(tail.counts, ties_by)
            group_of = {k: group for group, ids in groups.items() for k in ids}
        for row, k in enumerate(sorted(range(len(names)), key=lambda k: -tail.counts[k])):
            y, count = top + row * ROW, tail.counts[k]
            draw.text((left - MARGIN, y), names[k], fill="black", font=font, anchor="ra")
            x = left
            if count:
                x += max(round(PANEL_WIDTH * count / tail.counts[tail.most]), 1)
                color = GROUP_COLORS.get(group_of.get(k), UNGROUPED_COLOR)
                draw.rectangle((left, y + 2, x - 1, y + ROW - 4), fill=color)
            text = f"{count:,} ({percent(count / total)})"
            draw.text((x + 6, y), text, fill="black", font=font)
    return canvas


def text_bar(count: int, largest: int, width: int) -> str:
    """Return a bar of text on a linear scale: `width` times "#" for the largest count.

    A count too small for one "#" is a ".", and 0 is empty.
    """
    length = round(width * count / largest)
    return "#" * length if length or not count else "."


def evenly_spaced(records: Sequence[dict], number: int) -> list[dict]:
    """Return `number` records, evenly spaced from the first to the last, or all if fewer."""
    chosen = np.linspace(0, len(records) - 1, min(number, len(records))).round()
    return [records[int(index)] for index in chosen]


def select_samples(classes: Sequence[Sequence[int]], counts: Sequence[int], number: int) -> list:
    """Choose images to look at: one for each class, the rarest class first, then any others.

    Args:
        classes: the classes that each image shows.
        counts: (K,) number of images that show each class.
        number: largest number of images.

    Returns:
        Indices of images, in ascending order.
    """
    chosen: set[int] = set()
    seen: set[int] = set()
    for k in sorted(range(len(counts)), key=lambda k: counts[k]):
        index = next((i for i, shown in enumerate(classes) if k in shown), None)
        if k not in seen and index is not None and len(chosen) < number:
            chosen.add(index)
            seen.update(classes[index])
    rest = [i for i in range(len(classes)) if i not in chosen]
    missing = min(number - len(chosen), len(rest))
    chosen.update(rest[i * len(rest) // missing] for i in range(missing))
    return sorted(chosen)


def contact_sheet(
    samples: Iterable[tuple[str, np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    colors: np.ndarray,
    *,
    columns: int = 4,
) -> Image.Image:
    """Draw images in rows, each with the colours of its labels, its name and a legend.

    Args:
        samples: at least one (name, image (H, W, 3) uint8 RGB, label (H, W)).
        class_names: K names.
        colors: (K, 3) uint8 RGB.
        columns: number of images in a row.
    """
    return arrange([_tile(*sample, class_names, colors) for sample in samples], columns=columns)


def arrange(tiles: Sequence[Image.Image], *, columns: int = 4) -> Image.Image:
    """Put pictures of TILE_WIDTH into rows."""
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) + MARGIN for row in rows]
    width = min(columns, len(tiles)) * (TILE_WIDTH + MARGIN) + MARGIN
    canvas = Image.new("RGB", (width, sum(heights) + MARGIN), "white")
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            canvas.paste(tile, (MARGIN + column * (TILE_WIDTH + MARGIN), top))
        top += height
    return canvas


def _tile(
    name: str,
    image: np.ndarray,
    label: np.ndarray,
    class_names: Sequence[str],
    colors: np.ndarray,
) -> Image.Image:
    height = max(round(image.shape[0] * TILE_WIDTH / image.shape[1]), 1)
    size = (TILE_WIDTH, min(height, _TALLEST_TILE))
    small = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    ids = Image.fromarray(label.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    return titled(name, draw_overlay(np.asarray(small), np.asarray(ids), class_names, colors))


def titled(name: str, picture: Image.Image) -> Image.Image:
    """Put a name above a picture of TILE_WIDTH. Only the end of a long name is shown."""
    tile = Image.new("RGB", (TILE_WIDTH, ROW + picture.height), "white")
    font = ImageFont.load_default(TEXT_SIZE)
    while font.getlength(name) > TILE_WIDTH:
        name = "…" + name[2:]
    ImageDraw.Draw(tile).text((0, 0), name, fill="black", font=font)
    tile.paste(picture, (0, ROW))
    return tile
