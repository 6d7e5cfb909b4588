"""Draw a point cloud, its ground truth and a prediction next to each other.

Shape shorthands: N points, K classes.
"""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sar.data.clouds import Cloud, read_cloud
from sar.visualization.clouds import height_colors, view_from_above, view_obliquely
from sar.visualization.overlay import (
    IGNORE_COLOR,
    LINE,
    MARGIN,
    colorize,
    draw_legend,
    label_font,
)

PANEL = (330, 440)  # pixels, height and width
CORRECT_COLOR, WRONG_COLOR, UNKNOWN_COLOR = (190, 196, 202), (204, 32, 32), (232, 235, 238)


def own_colors(cloud: Cloud) -> np.ndarray:
    """Return colours (N, 3) uint8: of the cloud, or by its intensity, or by height."""
    if cloud.color is not None:
        return np.rint(255 * cloud.color).astype(np.uint8)
    if cloud.intensity is not None:
        low, high = np.percentile(cloud.intensity, (2, 98))
        share = (cloud.intensity - low) / (high - low if high > low else 1)
        grey = np.clip(30 + 200 * share, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, None], 3, axis=1)
    return height_colors(cloud.xyz)


def error_colors(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Return colours (N, 3) uint8: grey is correct, red is wrong, pale has no ground truth.

    Args:
        truth: (N,) ids of the ground truth. Ids without a class are ignored points.
        prediction: (N,) class ids.
    """
    kinds = np.where(truth == prediction, 0, 1)
    kinds[(truth < 0) | (truth >= num_classes)] = 2
    return np.array([CORRECT_COLOR, WRONG_COLOR, UNKNOWN_COLOR], dtype=np.uint8)[kinds]


def draw_cloud_labels(
    cloud: Cloud,
    labels: np.ndarray,
    class_names: Sequence[str],
    colors: np.ndarray,
    size: tuple[int, int],
) -> Image.Image:
    """Draw a cloud obliquely in the colours of its classes, over a legend of these classes.

    Args:
        cloud, class_names, colors: as in `draw_cloud`.
        labels: (N,) class ids. Other ids are ignored points.
        size: height and width in pixels, without the legend.
    """
    view = view_obliquely(cloud.xyz, cloud.normal, size)
    legend = _draw_legend([labels], class_names, colors, size[1])
    canvas = Image.new("RGB", (size[1], size[0] + legend.height), "white")
    canvas.paste(Image.fromarray(view.draw(colorize(labels, colors))), (0, 0))
    canvas.paste(legend, (0, size[0]))
    return canvas


def draw_cloud_file(
    path: str | os.PathLike,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    class_names: Sequence[str],
    colors: np.ndarray,
) -> Image.Image:
    """Draw a cloud of a file as `draw_cloud`.

    Args:
        path: as in `read_cloud`.
        truth, prediction: (1, N), since a cloud is an image with one row. `truth` may be None.
        class_names, colors: as in `draw_cloud`.

    Raises:
        InputError: as in `read_cloud`.
    """
    truth = None if truth is None else truth[0]
    return draw_cloud(read_cloud(path), truth, prediction[0], class_names, colors)


def draw_cloud(
    cloud: Cloud,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    class_names: Sequence[str],
    colors: np.ndarray,
) -> Image.Image:
    """Draw a cloud, its ground truth, a prediction and its errors in a row, over a legend.

    Each is drawn obliquely, and from above in a second row.

    Args:
        cloud: at least one point.
        truth: (N,) ids of the ground truth. Ids without a class are ignored points. None: this
            panel and the errors are left out.
        prediction: (N,) class ids.
        class_names: K names.
        colors: (K, 3) uint8 RGB.
    """
    panels = {"cloud": own_colors(cloud)}
    layers = {"prediction": prediction}
    if truth is not None:
        layers = {"ground truth": truth} | layers
    panels |= {title: colorize(ids, colors) for title, ids in layers.items()}
    if truth is not None:
        panels["errors"] = error_colors(truth, prediction, len(class_names))
    rows = [
        np.concatenate([_with_margin(view.draw(panel)) for panel in panels.values()], axis=1)
        for view in (
            view_obliquely(cloud.xyz, cloud.normal, PANEL),
            view_from_above(cloud.xyz, cloud.normal, PANEL),
        )
    ]
    drawn = Image.fromarray(np.concatenate(rows))
    legend = _draw_legend(list(layers.values()), class_names, colors, drawn.width)
    canvas = Image.new("RGB", (drawn.width, MARGIN + LINE + drawn.height + legend.height), "white")
    canvas.paste(drawn, (0, MARGIN + LINE))
    canvas.paste(legend, (0, MARGIN + LINE + drawn.height))
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(panels):
        left = MARGIN + column * drawn.width // len(panels)
        draw.text((left, MARGIN), title, fill="black", font=label_font())
    return canvas


def _with_margin(panel: np.ndarray) -> np.ndarray:
    return np.pad(panel, ((0, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=255)


def _draw_legend(
    layers: list[np.ndarray], class_names: Sequence[str], colors: np.ndarray, width: int
) -> Image.Image:
    num_classes = len(class_names)
    ids = np.unique(np.concatenate(layers))
    shown = [int(k) for k in ids if 0 <= k < num_classes]
    names, table = [*class_names], [*colors[:num_classes]]
    more = {"ignored": IGNORE_COLOR} if len(shown) < len(ids) else {}
    if len(layers) == 2:
        more |= {"no ground truth": UNKNOWN_COLOR} if more else {}
        more |= {"correct": CORRECT_COLOR, "wrong": WRONG_COLOR}
    shown += range(num_classes, num_classes + len(more))
    return draw_legend(shown, [*names, *more], [*table, *more.values()], width)
