"""Count objects instead of pixels: connected components that are found, missed or wrong.

Shape shorthands: K classes, H x W pixels of an image.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from sar.evaluation.class_metrics import class_metrics

# Rows of the counts.
OBJECT_COUNTS = ("objects", "found", "predicted", "correct")


def update_object_counts(
    counts: Tensor, prediction: np.ndarray, truth: np.ndarray, ignore: int, *, min_iou: float
) -> None:
    """Add the objects of one image to `counts`, in place.

    An object is a connected component of the pixels of a class; neighbours may touch at a corner
    (8-connectivity). An object of the ground truth is *found* if a predicted object of its class
    has an IoU of at least `min_iou` with it. Such a predicted object is *correct*.

    This is the matching of panoptic quality (Kirillov et al., CVPR 2019), with components as
    segments. With `min_iou` of 0.5 or more, no object is found by two predicted objects. A lower
    number suits small objects, whose IoU is low even if they are found. With a number close to 0,
    any overlap counts as a hit.

    Ignored pixels belong to no object of the ground truth, and do not count in the IoU. As in
    panoptic quality, a predicted object may extend over them, but it is not counted if more than
    half of it is ignored and it is not correct.

    Args:
        counts: (4, K) int64, in the order of OBJECT_COUNTS.
        prediction: (H, W) integers in [0, K).
        truth: (H, W) ground truth, integers in [0, K) or `ignore`.
        ignore: the label of pixels that are not counted.
        min_iou: in (0, 1].
    """
    num_classes = counts.shape[1]
    truth_ids, truth_classes = _components(truth, ignore)
    ids, classes = _components(prediction)
    first, second, areas = _overlaps(truth_ids, ids)
    is_valid = first > 0
    ignored_areas = np.bincount(second[~is_valid], areas[~is_valid], len(classes))
    first, second, areas = first[is_valid], second[is_valid], areas[is_valid]
    truth_areas = np.bincount(first, areas, len(truth_classes))
    valid_areas = np.bincount(second, areas, len(classes))

    iou = areas / (truth_areas[first] + valid_areas[second] - areas)
    is_match = (iou >= min_iou) & (truth_classes[first] == classes[second])
    is_found = np.bincount(first[is_match], minlength=len(truth_classes)) > 0
    is_correct = np.bincount(second[is_match], minlength=len(classes)) > 0
    is_counted = is_correct | (valid_areas >= ignored_areas)
    is_counted[0] = False  # not an object
    for row, found in enumerate(
        (truth_classes[1:], truth_classes[is_found], classes[is_counted], classes[is_correct])
    ):
        counts[row] += torch.from_numpy(np.bincount(found, minlength=num_classes))


def object_metrics(
    counts: Tensor, class_names: Sequence[str], groups: Mapping[str, Sequence[int]] | None = None
) -> dict[str, float]:
    """Return recall and precision of objects, in percent, with their means.

    ObjectRecall is the share of objects that are found. ObjectPrecision is the share of predicted
    objects that are correct. A class without an object in the ground truth has NaN in both, and a
    class without a predicted object has no precision (NaN). Means leave out NaN.

    Args:
        counts: (4, K) of `update_object_counts`.
        class_names: K names.
        groups: class ids of each group, by its name.
    """
    objects, found, predicted, correct = counts.double()
    recall = 100 * found / objects
    precision = (100 * correct / predicted).where(objects > 0, torch.nan)
    return {
        **class_metrics("ObjectRecall", recall, class_names, groups),
        **class_metrics("ObjectPrecision", precision, class_names, groups),
    }


def _components(labels: np.ndarray, ignore: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the components of a label map.

    Returns:
        (H, W) int32: the component of each pixel, 0 for ignored pixels; and (1 + components,): the
        class of each component.
    """
    ids = np.zeros(labels.shape, np.int32)
    classes = [0]
    for class_id in np.flatnonzero(np.bincount(labels.ravel())):
        if class_id == ignore:
            continue
        mask = labels == class_id
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        box = slice(top, top + height), slice(left, left + width)
        mask = np.ascontiguousarray(mask[box])
        number, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
        np.add(parts, len(classes) - 1, out=ids[box], where=mask)
        classes += [class_id] * (number - 1)
    return ids, np.array(classes)


def _overlaps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each pair of ids that share pixels, as two arrays, and their number of pixels.

    Only the ids of runs of equal pairs are sorted, since there are far fewer runs than pixels.
    """
    first, second = first.ravel(), second.ravel()
    is_start = np.ones(len(first), bool)
    is_start[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=len(first))
    stride = int(second.max()) + 1
    codes, of_run = np.unique(
        first[starts].astype(np.int64) * stride + second[starts], return_inverse=True
    )
    return codes // stride, codes % stride, np.bincount(of_run, lengths)
