"""Write a point cloud as one HTML page that shows it in 3-D, without a network or other files.

The page draws with WebGL. It switches between the cloud's own colours, ground truth, prediction and
errors, and hides classes.

Shape shorthands: N points of the cloud, M points of the page, K classes.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sar.errors import printable
from sar.files.atomic import write_atomically
from sar.files.html_page import html_page
from sar.visualization.clouds import height_colors, point_spacing

MAX_BYTES = 2_000_000  # of a page
# The names of the layers that the page compares to show the errors.
TRUTH, PREDICTION = "ground truth", "prediction"

_LEVELS = 65535  # of a coordinate, along the longest side of the cloud
_NUMBERS_BYTES = 200  # at most, of the numbers that are added at the end


def write_viewer(
    path: str | os.PathLike,
    xyz: np.ndarray,
    colors: np.ndarray | None,
    layers: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    class_colors: np.ndarray,
    *,
    title: str = "",
) -> None:
    """Write the page of a cloud, at most MAX_BYTES long.

    Positions have 16 bits: their error is at most 1/131,070 of the longest side. If the cloud has
    too many points, a random part is shown, in which rare classes keep more of their points. The
    page says so. The numbers of points in its legend always count the whole cloud.

    Args:
        path: the HTML file.
        xyz: (N, 3) coordinates, z up; at least one point.
        colors: (N, 3) uint8, the own colours. None: the page shows colours by height instead.
        layers: class ids (N,) by name, usually TRUTH and PREDICTION. Ids without a class, such as
            255, are ignored points.
        class_names: K names.
        class_colors: (K, 3) uint8 RGB.
        title: the title of the page; by default, the name of the file without the ending.
    """
    num_classes = len(class_names)
    # All ignored points get the id K, which needs no more bits than the classes.
    layers = {
        name: np.where((ids >= 0) & (ids < num_classes), ids, num_classes)
        for name, ids in layers.items()
    }
    id_type = np.dtype("u1" if num_classes <= 255 else "<u2")
    content = {
        "title": printable(title or Path(path).stem),
        "own": "height" if colors is None else "own colours",
        "classes": [
            {"name": printable(name), "color": f"#{bytes(color.tolist()).hex()}"}
            for name, color in zip(class_names, class_colors, strict=True)
        ],
        "layers": [
            {"name": name, "counts": np.bincount(ids, minlength=num_classes + 1).tolist()}
            for name, ids in layers.items()
        ],
    }
    if TRUTH in layers and PREDICTION in layers:
        has_truth = layers[TRUTH] < num_classes
        correct = int((layers[TRUTH] == layers[PREDICTION])[has_truth].sum())
        content["errors"] = {"correct": correct, "wrong": int(has_truth.sum()) - correct}

    point_bytes = 3 * 2 + 3 + len(layers) * id_type.itemsize
    room = MAX_BYTES - len(_render(content)) - _NUMBERS_BYTES
    shown = _choose(
        list(layers.values()), len(xyz), num_classes, limit=room * 3 // 4 // point_bytes
    )
    positions = xyz[shown].astype(np.float64)
    positions -= positions.min(axis=0)
    scale = float(positions.max()) / _LEVELS or 1.0
    content |= {
        "total": len(xyz),
        "shown": len(shown),
        "spacing": float(np.median(point_spacing(positions))) / scale,
        "positions": _encode(np.rint(positions / scale), "<u2"),
        "colors": _encode((height_colors(xyz) if colors is None else colors)[shown], "u1"),
        "id_bytes": id_type.itemsize,
    }
    for layer, ids in zip(content["layers"], layers.values(), strict=True):
        layer["ids"] = _encode(ids[shown], id_type)
    write_atomically(path, _render(content))


def _choose(
    layers: Sequence[np.ndarray], num_points: int, num_classes: int, limit: int
) -> np.ndarray:
    """Return the indices (M,) of at most `limit` points.

    A quarter of them is divided evenly among the classes, and the others are random.
    """
    if num_points <= limit:
        return np.arange(num_points)
    priority = np.random.default_rng(0).random(num_points)
    at_least = limit // (4 * max(len(layers) * num_classes, 1))
    for ids in layers:
        order = np.lexsort((priority, ids))
        starts = np.searchsorted(ids[order], np.arange(num_classes + 1))
        rank_in_class = np.arange(num_points) - starts[ids[order]]
        priority[order[rank_in_class < at_least]] -= 1
    return np.sort(np.argpartition(priority, limit)[:limit])


def _encode(array: np.ndarray, dtype: str | np.dtype) -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


def _render(content: dict) -> str:
    parts = ("cloud_viewer.css", "cloud_viewer.js")
    return html_page(__package__, "cloud_viewer.html", parts, content)
