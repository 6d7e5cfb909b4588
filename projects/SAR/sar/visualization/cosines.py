"""Draw the cosines between the vectors of classes, to see which classes a model separates.

Shape shorthands: K classes, C channels.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# As on the report's page: white is 0.
POSITIVE, NEGATIVE = (203, 59, 38), (33, 102, 196)
UNKNOWN_COLOR = (222, 222, 222)
MARGIN = 10  # pixels, as all sizes below
TEXT_SIZE = 13
ROW = 18
KEY_WIDTH = 160
# Largest size of a cell. With many classes, cells are smaller: the width stays near MAX_WIDTH.
CELL = 32
MAX_WIDTH = 1600
# Smallest cells for readable numbers and for readable names.
MIN_CELL_OF_NUMBERS, MIN_CELL_OF_NAMES = 28, 8
NUMBER_SIZE = 10
MAX_NAME_LENGTH = 24  # characters


def centred_cosines(vectors: np.ndarray) -> np.ndarray:
    """Return the cosines (K, K) between vectors (K, C), after their mean is subtracted.

    A vector that equals the mean has NaN. Only without their mean can the vectors form a simplex,
    with all cosines -1 / (K - 1). NC2 in `sar.evaluation.geometry` does the same.
    """
    centred = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(lengths > 0, lengths, np.nan)
    return unit @ unit.T


def plot_cosines(
    cosines: np.ndarray, class_names: Sequence[str], titles: Sequence[str]
) -> Image.Image:
    """Draw a square of cells: red for vectors in the same direction, blue for opposite ones.

    With more classes, the cells are smaller. With more than 200 classes, the names are left out.

    Args:
        cosines: (K, K), from -1 to 1. Cells with NaN are grey.
        class_names: K names of the rows and columns.
        titles: lines of text above the square.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    cell = max(min(CELL, MAX_WIDTH // len(cosines)), 1)
    side = cell * len(cosines)
    names = [_name(name, cell) for name in class_names] if cell >= MIN_CELL_OF_NAMES else []
    names_width = max((name.width for name in names), default=0) + MARGIN
    left, top = MARGIN + names_width, MARGIN + len(titles) * ROW + names_width
    width = max(
        left + side,
        MARGIN + max(int(font.getlength(title)) for title in titles),
        left + KEY_WIDTH,
    )
    canvas = Image.new("RGB", (width + MARGIN, top + side + 2 * MARGIN + 2 * ROW), "white")
    draw = ImageDraw.Draw(canvas)
    for row, title in enumerate(titles):
        draw.text((MARGIN, MARGIN + row * ROW), title, fill="black", font=font)
    for k, name in enumerate(names):
        middle = k * cell + (cell - name.height) // 2
        canvas.paste(name, (left - 6 - name.width, top + middle))
        upright = name.transpose(Image.Transpose.ROTATE_90)
        canvas.paste(upright, (left + middle, top - 6 - upright.height))
    cells = _colors(cosines).repeat(cell, axis=0).repeat(cell, axis=1)
    canvas.paste(Image.fromarray(cells), (left, top))
    if cell >= MIN_CELL_OF_NUMBERS:
        _write_numbers(draw, cosines, (left, top), cell)
    _draw_key(canvas, (left, top + side + MARGIN), font)
    return canvas


def _name(name: str, cell: int) -> Image.Image:
    """Draw a class name, at most as high as a cell."""
    if len(name) > MAX_NAME_LENGTH:
        name = name[: MAX_NAME_LENGTH - 1] + "…"
    font = ImageFont.load_default(min(TEXT_SIZE, cell))
    size = (max(int(font.getlength(name)), 1), min(ROW, cell))
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).text((0, size[1] / 2), name, fill="black", font=font, anchor="lm")
    return picture


def _colors(cosines: np.ndarray) -> np.ndarray:
    """Return the colours (..., 3) uint8 of cosines (...)."""
    strength = np.abs(np.nan_to_num(cosines)).clip(0, 1)[..., None]
    full = np.where(cosines[..., None] > 0, POSITIVE, NEGATIVE)
    colors = 255 + strength * (full - 255.0)
    return np.where(np.isnan(cosines)[..., None], UNKNOWN_COLOR, colors).round().astype(np.uint8)


def _write_numbers(
    draw: ImageDraw.ImageDraw, cosines: np.ndarray, corner: tuple[int, int], cell: int
) -> None:
    font = ImageFont.load_default(NUMBER_SIZE)
    left, top = corner
    for (row, column), value in np.ndenumerate(cosines):
        if np.isnan(value):
            continue
        # Avoid "-0.00", and drop the leading 0 to save space in the cell.
        text = f"{round(float(value), 2) + 0.0:.2f}".replace("0.", ".", 1)
        middle = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
        fill = "white" if abs(value) > 0.7 else "black"
        draw.text(middle, text, fill=fill, font=font, anchor="mm")


def _draw_key(canvas: Image.Image, corner: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    left, top = corner
    strip = _colors(np.linspace(-1, 1, KEY_WIDTH))[None].repeat(ROW - 6, axis=0)
    canvas.paste(Image.fromarray(strip), (left, top))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left, top, left + KEY_WIDTH - 1, top + ROW - 7), outline=UNKNOWN_COLOR)
    for text, x, anchor in (("-1", 0, "la"), ("0", KEY_WIDTH / 2, "ma"), ("1", KEY_WIDTH, "ra")):
        draw.text((left + x, top + ROW - 4), text, fill="black", font=font, anchor=anchor)
