"""Count one confusion matrix over a whole data set, and compute metrics of pixels from it.

Shape shorthands: K classes, H x W pixels of an image.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sar.evaluation.class_metrics import class_metrics


def update_confusion(confusion: Tensor, prediction: Tensor, truth: Tensor, ignore: int) -> None:
    """Add the pixels of one image to `confusion`, in place.

    It runs on the device of its tensors, without host synchronisation or a temporary K x K tensor.

    Args:
        confusion: (K, K) int64, contiguous. Row: true class; column: predicted class.
        prediction: (H, W) integers in [0, K).
        truth: (H, W) ground truth, integers in [0, K) or `ignore`.
        ignore: the label of pixels that are not counted.
    """
    num_classes = len(confusion)
    # uint8 would overflow in the product with K, and with an ignore value of 65535.
    truth = truth.long()
    valid = truth != ignore
    # An ignored pixel adds 0. Selecting valid pixels would make the host wait for their number, and
    # so would torch.bincount on CUDA.
    bins = torch.where(valid, truth * num_classes + prediction, 0)
    confusion.view(-1).index_add_(0, bins.view(-1), valid.long().view(-1))


def confusion_metrics(
    confusion: Tensor,
    class_names: Sequence[str],
    groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, float]:
    """Return metrics in percent. TP, FP and FN are the pixels of a class.

    These have the name and the definition of detectron2's SemSegEvaluator
    (http://cocodataset.org/#stuff-eval):

    - IoU = TP / (TP + FP + FN); ACC = TP / (TP + FN), the recall. mIoU and mACC are their means.
    - fwIoU is the mean IoU, weighted by the ground-truth pixels of the class.
    - pACC is the share of correct pixels.

    These are added, with their means mPrecision and mF1:

    - Precision = TP / (TP + FP). NaN for a class that is never predicted.
    - F1 = 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall.

    A class without ground truth has NaN in all metrics. Means leave out classes with NaN. Therefore
    mPrecision covers only the classes that have ground truth and are predicted.

    detectron2 0.6 divides the sum for mIoU by the number of classes in the ground truth *or* in the
    prediction. Here, as in later versions, the prediction does not change the divisor.

    Args:
        confusion: (K, K) integers. Row: true class; column: predicted class.
        class_names: K names.
        groups: class ids of each group, by its name. Each group adds mIoU@<name>, the mean IoU of
            its classes that have ground truth.
    """
    confusion = confusion.cpu().double()
    hits, in_truth, in_prediction = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    has_truth = in_truth > 0
    iou, acc, precision, f1 = (
        (100 * share).where(has_truth, torch.nan)
        for share in (
            hits / (in_truth + in_prediction - hits),
            hits / in_truth,
            hits / in_prediction,
            2 * hits / (in_truth + in_prediction),
        )
    )
    fw_iou = (iou * in_truth).nansum() / in_truth.sum()
    return {
        **class_metrics("IoU", iou, class_names, groups),
        "fwIoU": fw_iou.item(),
        **class_metrics("ACC", acc, class_names),
        "pACC": (100 * hits.sum() / in_truth.sum()).item(),
        **class_metrics("Precision", precision, class_names),
        **class_metrics("F1", f1, class_names),
    }
