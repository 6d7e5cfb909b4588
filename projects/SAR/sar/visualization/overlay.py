"""Draw label maps: over the image, or in a row with image, ground truth and prediction.

Shape shorthands: H x W pixels, K classes.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sar.data.datasets.folder import default_colors

from detectron2.data import Metadata

IGNORE_COLOR = (0, 0, 0)
LINE_COLOR = (255, 255, 255)  # between regions
OPACITY = 0.5  # of the colours of classes over the image
MARGIN = 8  # pixels around and between the panels
TITLE_SIZE = 14  # pixels
LINE = TITLE_SIZE + MARGIN
# Smaller images are enlarged, so that titles and legend fit.
MIN_PANEL_WIDTH = 240
MAX_PANEL = 20_000, 60_000  # width and height: a JPEG has at most 65,500 of each


def class_colors(metadata: Metadata) -> np.ndarray:
    """Return the (K, 3) uint8 RGB colours of a data set's classes, or default colours."""
    colors = metadata.get("stuff_colors") or default_colors(len(metadata.stuff_classes))
    return np.array(colors, dtype=np.uint8)


def colorize(labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Return a label map (H, W) as (H, W, 3) uint8 RGB. Ids without a colour, as 255, are black."""
    table = np.concatenate([colors, np.array([IGNORE_COLOR], dtype=np.uint8)])
    known = np.where((labels >= 0) & (labels < len(colors)), labels, len(colors))
    return np.take(table, known, axis=0)


def region_edges(labels: np.ndarray) -> np.ndarray:
    """Return a mask (H, W) of the pixels whose right or lower neighbour has another label."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def draw_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    colors: np.ndarray,
    *,
    all_classes: bool = False,
) -> Image.Image:
    """Draw the image with the colours of its classes, over a legend of these classes.

    Thin lines separate the regions, so that dark classes on dark scenes are told apart.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) class ids. Other ids are ignored pixels.
        class_names: K names.
        colors: (K, 3) uint8 RGB.
        all_classes: show all classes in the legend. Its height then depends only on the width of
            the image.
    """
    panels = Image.fromarray(image), Image.fromarray(colorize(labels, colors))
    panel = _fitted(Image.blend(*panels, OPACITY))
    # At half strength, since the line can cover a thin object.
    lined = Image.blend(panel, Image.new("RGB", panel.size, LINE_COLOR), 0.5)
    edges = region_edges(np.asarray(_fitted(Image.fromarray(labels.astype(np.int32)))))
    panel.paste(lined, mask=Image.fromarray(edges))
    shown = range(len(class_names))
    if not all_classes:
        shown = np.flatnonzero(np.bincount(labels.ravel())[: len(class_names)])
    legend = draw_legend(shown, class_names, colors, panel.width)
    canvas = Image.new("RGB", (panel.width, panel.height + MARGIN + legend.height), "white")
    canvas.paste(panel, (0, 0))
    canvas.paste(legend, (0, panel.height + MARGIN))
    return canvas


def side_by_side(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    class_names: Sequence[str],
    colors: np.ndarray,
) -> Image.Image:
    """Draw image, ground truth and prediction in a row, over a legend of their classes.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) ids of the ground truth. Ids without a class are ignored pixels. None: this
            panel is left out.
        prediction: (H, W) class ids.
        class_names: K names.
        colors: (K, 3) uint8 RGB.
    """
    labels = {"prediction": prediction}
    if truth is not None:
        labels = {"ground truth": truth} | labels
    panels = {"image": image} | {title: colorize(ids, colors) for title, ids in labels.items()}
    panels = {title: _fitted(Image.fromarray(panel)) for title, panel in panels.items()}
    width, height = panels["image"].size
    num_classes = len(class_names)
    ids = np.unique(np.concatenate([ids.ravel() for ids in labels.values()]))
    shown = [int(k) for k in ids if 0 <= k < num_classes]
    if len(shown) < len(ids):
        shown.append(num_classes)
    canvas_width = len(panels) * (width + MARGIN) + MARGIN
    legend = draw_legend(
        shown, [*class_names, "ignored"], [*colors[:num_classes], IGNORE_COLOR], canvas_width
    )

    canvas = Image.new(
        "RGB", (canvas_width, MARGIN + LINE + height + MARGIN + legend.height), "white"
    )
    draw = ImageDraw.Draw(canvas)
    for column, (title, panel) in enumerate(panels.items()):
        left = MARGIN + column * (width + MARGIN)
        draw.text((left, MARGIN), title, fill="black", font=label_font())
        canvas.paste(panel, (left, MARGIN + LINE))
    canvas.paste(legend, (0, MARGIN + LINE + height + MARGIN))
    return canvas


def _fitted(panel: Image.Image) -> Image.Image:
    """Enlarge a narrow picture by repeating its pixels, or shrink one that no JPEG can hold."""
    width, height = panel.size
    scale = max(1, min(-(-MIN_PANEL_WIDTH // width), MAX_PANEL[1] // height))
    scale = min(scale, MAX_PANEL[0] / width, MAX_PANEL[1] / height)
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return panel.resize(size, Image.Resampling.NEAREST)


def draw_legend(
    shown: Sequence[int],
    class_names: Sequence[str],
    colors: Sequence[Sequence[int]],
    width: int,
) -> Image.Image:
    """Draw colours and names of the classes `shown`, in rows of at most `width` pixels."""
    rows = _legend_rows([class_names[k] for k in shown], width - MARGIN, label_font())
    canvas = Image.new("RGB", (width, len(rows) * LINE), "white")
    draw = ImageDraw.Draw(canvas)
    ids = iter(shown)
    for number, row in enumerate(rows):
        top = number * LINE
        for left, name in row:
            color = tuple(int(value) for value in colors[next(ids)])
            draw.rectangle((left, top + 2, left + TITLE_SIZE - 2, top + TITLE_SIZE), fill=color)
            draw.text((left + TITLE_SIZE + 4, top), name, fill="black", font=label_font())
    return canvas


def label_font() -> ImageFont.FreeTypeFont:
    """Return the font of titles and legends."""
    return ImageFont.load_default(TITLE_SIZE)


def fitted(text: str, width: int) -> str:
    """Return a text that `label_font` draws in `width` pixels, if needed with "…" in the middle."""
    font, kept = label_font(), len(text)
    shown = text
    while font.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{text[: -(-kept // 2)]}…{text[len(text) - kept // 2 :]}"
    return shown


def _legend_rows(names: list[str], width: int, font) -> list[list[tuple[int, str]]]:
    """Return names with their left edges, in rows of at most `width` pixels."""
    rows, left = [], width
    for name in names:
        needed = TITLE_SIZE + 4 + int(font.getlength(name)) + 2 * MARGIN
        if left + needed > width:
            rows.append([])
            left = MARGIN
        rows[-1].append((left, name))
        left += needed
    return rows
