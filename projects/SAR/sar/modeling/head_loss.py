"""Give a semantic head the loss of the config, as a mean over the pixels of all processes.

Shape shorthands: N images, K classes, h x w the resolution of the head, H x W the resolution of the
labels.
"""

import math

import torch
from torch import nn

from sar.errors import InputError, dimensions
from sar.losses import CrossEntropy, HardPixelMining, WeightedSum
from sar.modeling.extension import Extension, bound_call, extend, own_class
from sar.modeling.loss_terms import build_criterion, check_loss, loss_terms
from sar.ops.over_processes import mean_over_processes

from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.projects.deeplab import DeepLabV3Head, DeepLabV3PlusHead
from detectron2.projects.deeplab.loss import DeepLabCE


class SegmentationLoss(nn.Module):
    """Loss that replaces `losses(predictions, targets)` of detectron2's semantic heads.

    As in these heads, the logits are upsampled to the labels' resolution, bilinearly and in
    float32. If the backbone has rounded a size up, the logits are larger than the labels. They are
    then cropped at the right and the bottom.

    Args:
        criterion: called with logits (N, K, h, w), labels (N, H, W) and the stride; returns a
            scalar. None if the class counts that it needs are unknown. The model can then be
            evaluated, but not trained.
        stride: H / h rounded up, the head's `common_stride`.
        loss_weight: factor of the loss.
        size_divisibility: the backbone may pad images to multiples of this number; 0 for no
            padding. detectron2's models also pad the labels.

    Raises:
        InputError: in a training step, if the logits have another stride or the criterion is None.
    """

    def __init__(
        self,
        criterion: nn.Module | None,
        *,
        stride: int,
        loss_weight: float = 1.0,
        size_divisibility: int = 0,
    ):
        super().__init__()
        self.criterion = criterion
        self.stride = stride
        self.loss_weight = loss_weight
        self.size_divisibility = size_divisibility

    def forward(
        self,
        predictions: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return {"loss_sem_seg": scalar} for logits (N, K, h, w) and int64 labels (N, H, W).

        For a `WeightedSum`, return an entry for each term instead, such as "loss_sem_seg_dice".

        Args:
            weights: of the pixels, (N, H, W), as the head of Panoptic-DeepLab has them.
        """
        if self.criterion is None:
            raise InputError(
                "MODEL.LOSS needs the pixels of each class in the training set: train with "
                "train_net.py, which counts them, or set DATASETS.CLASS_FREQUENCY to a file of "
                "tools/check_dataset.py"
            )
        self._check_stride(predictions.shape[-2:], targets.shape[-2:])
        options = {}
        if weights is not None:
            _require_pixel_weights(self.criterion)
            options["pixel_weights"] = weights
        arguments = (predictions, targets, self.stride)
        if isinstance(self.criterion, WeightedSum):
            terms = self.criterion.terms(*arguments, **options)
            losses = {f"loss_sem_seg_{name}": loss for name, loss in terms.items()}
        else:
            losses = {"loss_sem_seg": self.criterion(*arguments, **options)}
        return {name: loss * self.loss_weight for name, loss in losses.items()}

    def _check_stride(self, logit_size: tuple[int, int], label_size: tuple[int, int]) -> None:
        if self._fits(logit_size, label_size, self.stride):
            return
        fitting = max(math.ceil(label_size[i] / logit_size[i]) for i in (0, 1))
        if self._fits(logit_size, label_size, fitting):
            remedy = f"set it to {fitting}"
        else:
            remedy = "no stride fits both height and width, so correct the head"
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {self.stride}, but the head returns logits of "
            f"{dimensions(logit_size)} pixels (height x width) for labels of "
            f"{dimensions(label_size)}: {remedy}"
        )

    def _fits(self, logit_size: tuple[int, int], label_size: tuple[int, int], stride: int) -> bool:
        """Return True if both edges of the labels, or of the padded images, have this stride."""
        multiple = max(self.size_divisibility, 1)
        return all(
            # The second condition is for networks that round even multiples up, as 64 / 4 to 17.
            logit == math.ceil(label / stride)
            or stride == math.ceil(label / logit)
            or stride * logit == multiple * math.ceil(label / multiple)
            for logit, label in zip(logit_size, label_size, strict=True)
        )


def _require_pixel_weights(criterion: nn.Module) -> None:
    """Raise InputError if a criterion, or a term of it, is not a mean over weighted pixels."""
    is_sum = isinstance(criterion, WeightedSum)
    for term in criterion.criteria.values() if is_sum else (criterion,):
        if not isinstance(term, CrossEntropy):
            raise InputError(
                "MODEL.LOSS.NAME: the head weights its pixels, which "
                f"{type(term).__name__} cannot do. Set it to cross_entropy, hard_pixel_mining or "
                "focal"
            )


class _HeadWithLoss(Extension):
    """Base class that makes a semantic head compute `losses` with a `SegmentationLoss`."""

    def losses(
        self,
        predictions: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        return vars(self)["segmentation_loss"](predictions, targets, weights)


class _HeadOverProcesses(Extension):
    """Base class that applies `mean_over_processes` to the losses of a semantic head.

    It is for heads whose losses are means over the valid pixels of one process. Most third-party
    heads are like this.
    """

    def forward(self, *args, **kwargs):
        if not self.training:
            return super().forward(*args, **kwargs)
        call = bound_call(self, args, kwargs)
        labels = vars(self)["name_of_labels"]
        if (targets := call.arguments.get(labels)) is None:
            raise InputError(
                f'{own_class(self).__name__} was called without "{labels}" in training: set '
                "MODEL.TAP.LABELS to the argument with the labels"
            )
        num_valid = (targets != self.ignore_value).sum()
        call.arguments[labels] = _with_a_valid_pixel(targets, num_valid)
        predictions, losses = super().forward(*call.args[1:], **call.kwargs)
        return predictions, {k: mean_over_processes(v, num_valid) for k, v in losses.items()}


def use_loss(head: nn.Module, loss: SegmentationLoss) -> None:
    """Make a semantic head compute its losses with `loss`.

    The class of the head changes to a subclass. The state_dict keys of the head do not change:
    `loss` stays a submodule of the model, and does not become a submodule of the head.
    """
    vars(head)["segmentation_loss"] = loss
    extend(head, _HeadWithLoss)


def use_all_processes(head: nn.Module, labels: str = "targets") -> None:
    """Make a semantic head return losses that are means over the valid pixels of all processes.

    The class of the head changes to a subclass. Hooks of the head still get the original labels.

    Args:
        labels: name of the head's argument with the labels.
    """
    vars(head)["name_of_labels"] = labels
    extend(head, _HeadOverProcesses)


def _with_a_valid_pixel(targets: torch.Tensor, num_valid: torch.Tensor) -> torch.Tensor:
    """Return the labels. If no pixel is valid, set the first pixel of each image to class 0.

    A mean over no pixels is 0 / 0. `torch.where` would hide the NaN in the loss, but not in its
    gradient, since NaN * 0 is NaN.
    """
    targets = targets.clone(memory_format=torch.contiguous_format)
    first = targets.flatten(1)[:, 0]
    first.copy_(torch.where(num_valid > 0, first, 0))
    return targets


def build_loss(
    cfg: CfgNode, head: nn.Module, size_divisibility: int = 0
) -> SegmentationLoss | None:
    """Build MODEL.LOSS for a semantic head, or return None if the head keeps its own loss.

    Without MODEL.LOSS.NAME, the losses of detectron2's heads are replaced by the same losses over
    all processes.

    Args:
        cfg: config of the model. The class counts are read with `class_frequency_of`. If they are
            unknown, only a training step raises an error, since evaluation does not need them.
        head: the semantic head. If MODEL.LOSS.NAME is set, it needs `losses`, `common_stride`,
            `loss_weight` and `ignore_value`.
        size_divisibility: value of the backbone, see `SegmentationLoss`.

    Raises:
        InputError: a key of MODEL.LOSS is wrong, the class-frequency file is missing or wrong, or
            the head has no loss to replace.
    """
    check_loss(cfg)
    if terms := loss_terms(cfg):
        _require_replaceable_loss(cfg, head)
        criterion = build_criterion(cfg, head.ignore_value)
    else:
        criterion = _own_criterion(head, fused=cfg.MODEL.LOSS.FUSED)
        if criterion is None:
            return None
    (factor,) = terms.values() if len(terms) == 1 else (1.0,)  # a sum has the factors of its terms
    return SegmentationLoss(
        criterion,
        stride=head.common_stride,
        loss_weight=head.loss_weight * factor,
        size_divisibility=size_divisibility,
    )


def _require_replaceable_loss(cfg: CfgNode, head: nn.Module) -> None:
    needed = ("losses", "common_stride", "loss_weight", "ignore_value")
    lacking = [attribute for attribute in needed if not hasattr(head, attribute)]
    if lacking:
        raise InputError(
            f'MODEL.LOSS.NAME "{cfg.MODEL.LOSS.NAME}" replaces the method losses(predictions, '
            f"targets) of a semantic head, but {type(head).__name__} (MODEL.SEM_SEG_HEAD.NAME) "
            f'lacks {", ".join(lacking)}: set MODEL.LOSS.NAME to "" for its own loss, or choose a '
            "head with these attributes, such as SemSegFPNHead"
        )


def _own_criterion(head: nn.Module, fused: bool) -> nn.Module | None:
    """Return the criterion of a head from detectron2, or None for a head with another loss."""
    known = (SemSegFPNHead, DeepLabV3Head, DeepLabV3PlusHead)
    if getattr(type(head), "losses", None) not in [kind.losses for kind in known]:
        return None
    own = getattr(head, "loss", None)  # only DeepLab's heads have this attribute
    if isinstance(own, DeepLabCE):
        return HardPixelMining(head.ignore_value, own.top_k_percent_pixels, fused=fused)
    return CrossEntropy(head.ignore_value, fused=fused)
