"""Auxiliary head: a second training loss on an intermediate feature, for any semantic head.

Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, section 3.3.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from sar.modeling.extension import bound_call
from sar.modeling.heads.base import select_features
from sar.modeling.heads.fcn import FCNHead

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec


def build_auxiliary_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> FCNHead | None:
    """Build MODEL.AUXILIARY_HEAD, or return None if IN_FEATURE is empty.

    Raises:
        InputError: the backbone does not have the feature.
    """
    settings = cfg.MODEL.AUXILIARY_HEAD
    if not settings.IN_FEATURE:
        return None
    head = cfg.MODEL.SEM_SEG_HEAD
    return FCNHead(
        select_features(input_shape, [settings.IN_FEATURE], "MODEL.AUXILIARY_HEAD.IN_FEATURE"),
        num_classes=head.NUM_CLASSES,
        conv_dims=settings.CONVS_DIM,
        kernel_size=3,
        norm=head.NORM,
        dropout=head.DROPOUT,
        loss_weight=settings.LOSS_WEIGHT,
        ignore_value=head.IGNORE_VALUE,
        fused_loss=cfg.MODEL.LOSS.FUSED,
    )


@contextmanager
def auxiliary_loss(
    head: nn.Module, auxiliary_head: FCNHead | None, labels: str = "targets"
) -> Iterator[None]:
    """Add "loss_sem_seg_aux" to the losses that `head(features, targets)` returns in training.

    The forward hook exists only inside the `with`, so inference and exported models do not have it.

    Args:
        head: any semantic head. The features are its first argument.
        auxiliary_head: called with the same features and labels. With None, no loss is added.
        labels: name of the head's argument with the labels.
    """
    if auxiliary_head is None:
        yield
        return

    def add_loss(module, args, kwargs, output):
        predictions, losses = output
        call = bound_call(module, args, kwargs).arguments
        _, features, *_ = call.values()  # after the head itself
        _, auxiliary_losses = auxiliary_head(features, call.get(labels))
        return predictions, {**losses, "loss_sem_seg_aux": auxiliary_losses["loss_sem_seg"]}

    with head.register_forward_hook(add_loss, with_kwargs=True):
        yield
