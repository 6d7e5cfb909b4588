"""Count one confusion matrix over a whole data set, and compute metrics from it.

Shape shorthands: K classes, H x W pixels of an image.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


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


def iou_metrics(
    confusion: Tensor,
    class_names: Sequence[str],
    groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, float]:
    """Return metrics in percent, named, ordered and defined as in detectron2's SemSegEvaluator.

    IoU = TP / (TP + FP + FN), ACC = TP / (TP + FN). mIoU and mACC are means over the classes
    that have ground truth. fwIoU weights IoU by the ground-truth pixels of the class. pACC is the
    share of correct pixels (http://cocodataset.org/#stuff-eval). A class, group or data set without
    ground truth has NaN.

    detectron2 0.6 divides the sum for mIoU by the number of classes in the ground truth *or* in the
    prediction. Here, as in later versions, the prediction does not change the divisor.

    Args:
        confusion: (K, K) integers. Row: true class; column: predicted class.
        class_names: K names.
        groups: class ids of each group, by its name. Each group adds mIoU@<name>, the mean IoU of
            its classes that have ground truth.

    Returns:
        mIoU, fwIoU, IoU-<class>..., mACC, pACC, ACC-<class>..., mIoU@<group>...
    """
    confusion = confusion.cpu().double()
    hits, in_truth, in_prediction = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    has_truth = in_truth > 0
    nan = torch.full_like(hits, torch.nan)
    iou = torch.where(has_truth, 100 * hits / (in_truth + in_prediction - hits), nan)
    acc = torch.where(has_truth, 100 * hits / in_truth, nan)

    metrics = {"mIoU": iou.nanmean(), "fwIoU": (iou * in_truth).nansum() / in_truth.sum()}
    metrics |= {f"IoU-{name}": iou[i] for i, name in enumerate(class_names)}
    metrics |= {"mACC": acc.nanmean(), "pACC": 100 * hits.sum() / in_truth.sum()}
    metrics |= {f"ACC-{name}": acc[i] for i, name in enumerate(class_names)}
    metrics |= {f"mIoU@{name}": iou[list(ids)].nanmean() for name, ids in (groups or {}).items()}
    return {name: value.item() for name, value in metrics.items()}
