"""The prediction of a model for one point cloud.

Shape shorthands: N points of the cloud, K classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sar.data.clouds import Cloud, write_labels
from sar.visualization.cloud_picture import draw_cloud, own_colors
from sar.visualization.cloud_viewer import PREDICTION, TRUTH, write_viewer


@dataclass(frozen=True, eq=False)
class CloudPrediction:
    """The prediction of a model for one cloud.

    Attributes:
        cloud: the cloud.
        truth: (N,) ids of the ground truth; None if the cloud has none (see `ground_truth_of`).
        labels: (N,) class ids, uint8 (uint16 for more than 256 classes).
        confidence: (N,) float32, the probability of the predicted class; None if not requested.
        class_names: K names.
        colors: (K, 3) uint8 RGB.
    """

    cloud: Cloud
    truth: np.ndarray | None
    labels: np.ndarray
    confidence: np.ndarray | None
    class_names: Sequence[str]
    colors: np.ndarray

    def overlay(self) -> Image.Image:
        """Draw the cloud and its classes obliquely and from above, with errors if it has labels."""
        return draw_cloud(self.cloud, self.truth, self.labels, self.class_names, self.colors)

    def write_viewer(self, path: str | os.PathLike, title: str = "") -> None:
        """Write an HTML page that turns the cloud in a browser, at most 2 MB long.

        Args:
            path: the HTML file.
            title: the title of the page; by default, the name of the file without the ending.
        """
        layers = {PREDICTION: self.labels}
        if self.truth is not None:
            layers = {TRUTH: self.truth} | layers
        cloud = self.cloud
        has_colors = cloud.color is not None or cloud.intensity is not None
        colors = own_colors(cloud) if has_colors else None
        names = self.class_names
        write_viewer(path, cloud.xyz, colors, layers, names, self.colors, title=title)

    def write_labels(self, cloud_path: str | os.PathLike, path: str | os.PathLike) -> None:
        """Write the labels in the format of the cloud's file.

        Args:
            cloud_path: the file of the cloud.
            path: the new file.

        Raises:
            InputError: as in `sar.data.clouds.write_labels`.
        """
        write_labels(cloud_path, self.labels, path)


def ground_truth_of(cloud: Cloud, num_classes: int, ignore_label: int) -> np.ndarray | None:
    """Return the labels (N,) of a cloud; None if they are not the ground truth of these classes.

    Labels do not count if they have an id that is not a class, such as the original ids of a data
    set; or if all points have the same id, such as 1 (unclassified) in a LAS file.
    """
    if cloud.label is None:
        return None
    classes = cloud.label[cloud.label != ignore_label]
    if not classes.size or classes.min() < 0 or classes.max() >= num_classes:
        return None
    return cloud.label if cloud.label.min() < cloud.label.max() else None
