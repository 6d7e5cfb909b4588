"""Draw what several models predict where the ground truth shows a rare class.

Shape shorthands: H x W pixels, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw

from sar.visualization.overlay import LINE, MARGIN, colorize, fitted, label_font

if TYPE_CHECKING:
    from sar.visualization.rare_cloud_classes import CloudExample

PANEL = 200  # pixels, width and height of a panel
# The part of an image that a panel shows has at least this edge, in pixels.
_LEAST_EDGE = 96
_FRAME = (220, 30, 30)


@dataclass(frozen=True, eq=False)
class Example:
    """One image with a class. `CloudExample` is one for point clouds.

    Attributes:
        title: name of the class, and how rare it is.
        class_id: its id.
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) ids of the ground truth.
        predictions: (H, W) class ids, by the name of the model.
    """

    title: str
    class_id: int
    image: np.ndarray
    truth: np.ndarray
    predictions: dict[str, np.ndarray]

    def mask(self) -> np.ndarray:
        """Return (H, W) bool: where the ground truth has the class."""
        return self.truth == self.class_id

    def panels(self, colors: np.ndarray) -> dict[str, np.ndarray]:
        """Return the pictures (H, W, 3) of image, ground truth and predictions, by their names."""
        labels = {"ground truth": self.truth} | self.predictions
        return {"image": self.image} | {n: colorize(ids, colors) for n, ids in labels.items()}


def draw_rare_classes(
    examples: "Sequence[Example | CloudExample]", colors: np.ndarray
) -> Image.Image:
    """Draw an example per row: image, ground truth and predictions, around an object of the class.

    A frame marks the largest object of the class, in all panels. Below each prediction is the share
    of the class's pixels (or points) that the model finds in the whole image (or cloud).

    Args:
        examples: at least one, all with the same models.
        colors: (K, 3) uint8 RGB.
    """
    rows = [_draw_row(example, colors) for example in examples]
    canvas = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height
    return canvas


def _draw_row(example: "Example | CloudExample", colors: np.ndarray) -> Image.Image:
    mask, panels = example.mask(), example.panels(colors)
    top, bottom, left, right = _bounds(mask)
    window = _window(top, bottom, left, right, mask.shape)
    notes = {"ground truth": example.title}
    shown = example.truth == example.class_id
    for name, labels in example.predictions.items():
        notes[name] = f"finds {np.mean(labels[shown] == example.class_id):.0%} of it"
    step = PANEL + MARGIN
    canvas = Image.new("RGB", (MARGIN + len(panels) * step, 2 * LINE + step + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    scale = PANEL / (window[1] - window[0])
    frame = [
        ((left - 2 - window[2]) * scale, (top - 2 - window[0]) * scale),
        ((right + 3 - window[2]) * scale, (bottom + 3 - window[0]) * scale),
    ]
    for column, (name, panel) in enumerate(panels.items()):
        x, y = MARGIN + column * step, LINE
        draw.text((x, 2), fitted(name, PANEL), fill="black", font=label_font())
        part = Image.fromarray(panel[window[0] : window[1], window[2] : window[3]])
        tile = part.resize((PANEL, PANEL), Image.Resampling.NEAREST)
        ImageDraw.Draw(tile).rectangle(frame, outline=_FRAME, width=2)
        canvas.paste(tile, (x, y))
        note = fitted(notes.get(name, ""), PANEL)
        draw.text((x, y + PANEL + 2), note, fill="black", font=label_font())
    return canvas


def _bounds(shown: np.ndarray) -> tuple[int, int, int, int]:
    """Return first and last row, first and last column of the largest object in a mask."""
    _, _, objects, _ = cv2.connectedComponentsWithStats(shown.astype(np.uint8), connectivity=8)
    left, top, width, height, _ = objects[1 + objects[1:, cv2.CC_STAT_AREA].argmax()].tolist()
    return top, top + height - 1, left, left + width - 1


def _window(
    top: int, bottom: int, left: int, right: int, shape: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return a square around a box as first and last row and column, inside the image."""
    edge = max(2 * (bottom - top), 2 * (right - left), _LEAST_EDGE)
    edge = min(edge, *shape)
    first = [
        min(max((low + high - edge) // 2, 0), size - edge)
        for low, high, size in ((top, bottom, shape[0]), (left, right, shape[1]))
    ]
    return first[0], first[0] + edge, first[1], first[1] + edge
