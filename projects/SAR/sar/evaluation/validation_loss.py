"""Measure the loss of the training on an evaluated data set.

Shape shorthands: K classes, H x W pixels of a label file.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sar.errors import InputError
from sar.evaluation.geometry import sum_on_cpu
from sar.losses import CrossEntropy, HardPixelMining, Seesaw, WeightedSum
from sar.modeling.head_loss import SegmentationLoss
from sar.ops.over_processes import in_one_process


class ValidationLoss:
    """The loss of the semantic head, over all valid pixels of a data set.

    It is computed from the logits at the resolution of the label files. For cross-entropy and
    similar losses, it is exactly the mean over all valid pixels of the data set, with the class
    weights of the training. Other losses, such as `HardPixelMining`, are computed for each image.
    Then the images are averaged, weighted by their number of valid pixels. Each term of a sum is
    measured on its own. Regularizers and auxiliary heads are not included.

    Args:
        loss: of the model, see `loss_of`. It is copied as it is now.
        ignore_label: the label of pixels that do not count.

    Raises:
        InputError: the loss is seesaw, and has seen no pixel.
    """

    def __init__(self, loss: SegmentationLoss, ignore_label: int):
        criterion = copy.deepcopy(loss.criterion).eval()
        for module in criterion.modules():
            if isinstance(module, CrossEntropy):
                module.fused = False  # there is nothing to upsample
            if isinstance(module, Seesaw) and not module.pixels_seen.any():
                raise InputError(
                    "TEST.LOSS: these weights lack the counts of the loss seesaw, which "
                    "model_inference.pth leaves out: evaluate model_final.pth, or set TEST.LOSS "
                    "False"
                )
        is_sum = isinstance(criterion, WeightedSum)
        self._criteria = list(criterion.criteria.values()) if is_sum else [criterion]
        factors = list(criterion.factors.values()) if is_sum else [1.0]
        self._factors = [loss.loss_weight * factor for factor in factors]
        self._ignore_label = ignore_label
        # For each term: sum of the losses, each times its weight; sum of the weights.
        self._totals = torch.zeros(len(factors), 2, dtype=torch.float64)

    @torch.no_grad()
    def update(self, logits: Tensor, truth: Tensor) -> None:
        """Add an image, on its device.

        Args:
            logits: (K, H, W) of any floating type.
            truth: (H, W) integers in [0, K), or the ignore label.
        """
        labels = truth.long()[None]
        self._totals = self._totals.to(logits.device)
        for total, criterion in zip(self._totals, self._criteria, strict=True):
            criterion = criterion.to(logits.device)
            with in_one_process():  # the others may have no image left
                loss = criterion(logits[None].float(), labels, 1)
            weight = self._weight(criterion, labels)
            total += torch.stack([loss.double() * weight, weight])

    def reduce(self) -> float:
        """Return the loss over all processes; NaN without a valid pixel. All must call it."""
        totals = sum_on_cpu(self._totals)
        means = (totals[:, 0] / totals[:, 1]).tolist()  # 0 / 0 is NaN
        return sum(factor * mean for factor, mean in zip(self._factors, means, strict=True))

    def _weight(self, criterion: nn.Module, labels: Tensor) -> Tensor:
        is_mean = isinstance(criterion, CrossEntropy) and not isinstance(criterion, HardPixelMining)
        weights = criterion.pixel_weights(labels) if is_mean else labels != self._ignore_label
        return weights.sum(dtype=torch.float64)


def loss_of(model: nn.Module, head: str) -> SegmentationLoss:
    """Return the loss of a model's semantic head.

    Args:
        model: a detectron2 model, with or without DistributedDataParallel.
        head: dotted path of its semantic head, MODEL.TAP.HEAD.

    Raises:
        InputError: the head has a loss of its own, or the class counts of its loss are unknown.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    try:
        module = model.get_submodule(head)
    except AttributeError:
        raise InputError(
            f'TEST.LOSS: MODEL.TAP.HEAD "{head}" leads nowhere in {type(model).__name__}. Correct '
            "the path, or set TEST.LOSS False"
        ) from None
    loss = vars(module).get("segmentation_loss", getattr(module, "loss", None))
    if not isinstance(loss, SegmentationLoss):
        raise InputError(
            f"TEST.LOSS: {type(module).__name__} has a loss of its own, which evaluation cannot "
            "repeat: set MODEL.LOSS.NAME (such as cross_entropy), or set TEST.LOSS False"
        )
    if loss.criterion is None:
        raise InputError(
            "TEST.LOSS: MODEL.LOSS needs the pixels of each class in the training set. Set "
            "DATASETS.CLASS_FREQUENCY to a file of tools/check_dataset.py, or set TEST.LOSS False"
        )
    return loss
