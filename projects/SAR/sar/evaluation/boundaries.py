"""Boundary IoU: the IoU of the bands along the boundaries of classes.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021.

Shape shorthands: K classes, H x W pixels of an image.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from sar.evaluation.class_metrics import class_metrics

# Width of the band, as a share of the image diagonal. The paper uses 2%.
BAND = 0.02


def update_boundary_counts(
    counts: Tensor, prediction: np.ndarray, truth: np.ndarray, ignore: int
) -> None:
    """Add the bands of one image to `counts`, in place.

    The band of a class consists of its pixels at a distance of at most d from a pixel of another
    class or from the outside of the image. d is 2% of the image diagonal, rounded, and at least one
    pixel. The distance is the larger of the differences in rows and columns, as in the authors'
    code. So each class has the band that its own mask would have. An ignored pixel is in no band,
    and makes no boundary: the class next to it may continue there.

    Args:
        counts: (3, K) int64: pixels of each class in the band of the ground truth, in the band of
            the prediction, and in both.
        prediction: (H, W) integers in [0, K).
        truth: (H, W) ground truth, integers in [0, K) or `ignore`.
        ignore: the label of pixels that are not counted.
    """
    num_classes = counts.shape[1]
    dtype = np.uint8 if num_classes <= 256 else np.uint16  # OpenCV erodes no int32
    ignored = truth == ignore
    distance = max(round(BAND * float(np.hypot(*truth.shape))), 1)
    truth, prediction = truth.astype(dtype), prediction.astype(dtype)
    in_truth = _band(truth, ignored, distance)
    in_prediction = _band(prediction, ignored, distance)
    in_both = in_truth & in_prediction & (truth == prediction)
    for row, band, labels in (
        (0, in_truth, truth),
        (1, in_prediction, prediction),
        (2, in_both, truth),
    ):
        counts[row] += torch.from_numpy(np.bincount(labels[band], minlength=num_classes))


def boundary_metrics(
    counts: Tensor, class_names: Sequence[str], groups: Mapping[str, Sequence[int]] | None = None
) -> dict[str, float]:
    """Return mBoundaryIoU, BoundaryIoU-<class>... and mBoundaryIoU@<group>..., in percent.

    Like the IoU, it is one number over the whole data set: the pixels in both bands, divided by the
    pixels in at least one band. A class without a band in the ground truth has NaN. The means leave
    it out.

    Args:
        counts: (3, K) of `update_boundary_counts`.
        class_names: K names.
        groups: class ids of each group, by its name.
    """
    in_truth, in_prediction, in_both = counts.double()
    iou = 100 * in_both / (in_truth + in_prediction - in_both)
    return class_metrics("BoundaryIoU", iou.where(in_truth > 0, torch.nan), class_names, groups)


def _band(labels: np.ndarray, ignored: np.ndarray, distance: int) -> np.ndarray:
    """Return a mask (H, W) of the pixels that are in the band of their class.

    A pixel is inside its class if the smallest and the largest label in the window around it equal
    its own label. So two filters give the bands of all classes. (A single filter, such as an
    erosion of the label map, finds only the boundaries to lower labels.)
    """
    window = np.ones((2 * distance + 1,) * 2, np.uint8)
    # Ignored pixels get values that do not change the smallest or the largest label.
    largest = cv2.dilate(np.where(ignored, 0, labels), window)
    smallest = cv2.erode(np.where(ignored, np.iinfo(labels.dtype).max, labels), window)
    band = (smallest != labels) | (largest != labels)
    for edge in (band, band.T):
        edge[:distance] = edge[-distance:] = True
    return band & ~ignored
