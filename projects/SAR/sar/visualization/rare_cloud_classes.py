"""Draw the surroundings of an object of a rare class in a point cloud.

Shape shorthands: N points, H x W pixels, K classes.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from sar.data.clouds import Cloud
from sar.visualization.cloud_picture import own_colors
from sar.visualization.clouds import SAMPLES, CloudView, view_from_above, view_obliquely
from sar.visualization.overlay import colorize

_SIZE = (200, 200)  # pixels, height and width of a view
# Points of a class belong to one object if they are in neighbouring cells of the floor plan, which
# has this many cells along its longer side.
_CELLS = 40
# The surroundings are this many times as wide as the object, but at least this part of the cloud's
# width.
_TIMES, _LEAST = 4.0, 0.5


@dataclass(frozen=True, eq=False)
class CloudExample:
    """One cloud with a class, for `draw_rare_classes`. The panels show a part of the cloud.

    Attributes:
        title: name of the class, and how rare it is.
        class_id: its id.
        cloud: the cloud.
        truth: (N,) ids of the ground truth. At least one point has the class.
        predictions: (N,) class ids, by the name of the model.
    """

    title: str
    class_id: int
    cloud: Cloud
    truth: np.ndarray
    predictions: dict[str, np.ndarray]

    def mask(self) -> np.ndarray:
        """Return (H, W) bool: where the view shows the class in the ground truth."""
        return _shows(self._view, self._part, self.truth == self.class_id)

    def panels(self, colors: np.ndarray) -> dict[str, np.ndarray]:
        """Return the pictures (H, W, 3) of cloud, ground truth and predictions, by their names."""
        labels = {"ground truth": self.truth} | self.predictions
        panels = {"cloud": own_colors(self.cloud)}
        panels |= {name: colorize(ids, colors) for name, ids in labels.items()}
        return {name: self._view.draw(panel[self._part]) for name, panel in panels.items()}

    @cached_property
    def _part(self) -> np.ndarray:
        return around_largest_object(self.cloud.xyz, self.truth == self.class_id)

    @cached_property
    def _view(self) -> CloudView:
        """Return a view of the part that shows the class: the object may be hidden in some."""
        part, has_class = self._part, self.truth == self.class_id
        xyz, normal = self.cloud.xyz[part], self.cloud.normal
        normal = None if normal is None else normal[part]
        for look, normals in (
            (view_obliquely, normal),
            (view_from_above, normal),
            (view_obliquely, None),
        ):
            view = look(xyz, normals, _SIZE)
            if _shows(view, part, has_class).any():
                return view
        # Other points hide it from every side: draw only the points of the class.
        own = np.flatnonzero(has_class[part])
        view = view_obliquely(xyz[own], None, _SIZE)
        return replace(view, points=np.append(own, -1)[view.points])


def around_largest_object(xyz: np.ndarray, has_class: np.ndarray) -> np.ndarray:
    """Return the indices of the points around the largest object of a class, seen from above.

    Args:
        xyz: (N, 3) coordinates, z up.
        has_class: (N,) bool, at least one True.
    """
    plan = xyz[:, :2] - xyz[:, :2].min(axis=0)
    width = float(plan.max()) or 1.0
    cells = np.minimum((plan[has_class] / width * _CELLS).astype(np.int64), _CELLS - 1)
    occupied = np.zeros((_CELLS, _CELLS), dtype=np.uint8)
    occupied[cells[:, 0], cells[:, 1]] = 1
    _, object_of = cv2.connectedComponents(occupied, connectivity=8)
    object_of_point = object_of[cells[:, 0], cells[:, 1]]
    largest = plan[has_class][object_of_point == np.bincount(object_of_point).argmax()]
    low, high = largest.min(axis=0), largest.max(axis=0)
    reach = max(_TIMES * float((high - low).max()), _LEAST * width) / 2
    middle = (low + high) / 2
    return np.flatnonzero((np.abs(plan - middle) <= reach).all(axis=1))


def _shows(view: CloudView, part: np.ndarray, has_class: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: the pixels of a view of a part that show a point of the class."""
    shown = np.append(has_class[part], False)[view.points]  # -1 is the background
    height, width = (side // SAMPLES for side in shown.shape)
    return shown.reshape(height, SAMPLES, width, SAMPLES).any(axis=(1, 3))
