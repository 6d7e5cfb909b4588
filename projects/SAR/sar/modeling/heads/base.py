"""Base class and common parts of the semantic heads, with detectron2's interface.

Shape shorthands: N images, C embedding channels, K classes, H x W the resolution of the padded
images, h x w the resolution of a head's logits. h and w are H and W divided by the head's stride,
rounded up.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from sar.errors import InputError, nearest
from sar.losses import CrossEntropy
from sar.modeling.head_loss import SegmentationLoss

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm


class SemanticHead(nn.Module):
    """Base class of semantic heads that end in `self.predictor`. Subclasses define `layers`.

    Features are read from the finest to the coarsest. The logits have the stride of the finest
    feature.

    Args:
        input_shape: channels and stride of each feature that the head reads, by name.
        num_classes: K.
        embed_dim: C, channels of the predictor's input.
        dropout: share of the embedding's channels that the predictor drops in training.
        loss_weight: factor of the loss.
        ignore_value: label of pixels that do not count.
        fused_loss: see `sar.losses.CrossEntropy`.

    Attributes:
        in_features: names of the features, finest first; `in_channels` has their channels.
        common_stride: stride of the logits.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        embed_dim: int,
        dropout: float = 0.1,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        fused_loss: bool = True,
    ):
        super().__init__()
        shapes = sorted(input_shape.items(), key=lambda item: item[1].stride)
        self.in_features = [name for name, _ in shapes]
        self.in_channels = [shape.channels for _, shape in shapes]
        self.common_stride = shapes[0][1].stride
        self.dropout = dropout
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        criterion = CrossEntropy(ignore_value, fused=fused_loss)
        self.loss = SegmentationLoss(criterion, stride=self.common_stride, loss_weight=loss_weight)
        self.predictor = Predictor(embed_dim, num_classes)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Return the arguments that all heads share, from MODEL.SEM_SEG_HEAD.

        Raises:
            InputError: the backbone lacks a feature, or COMMON_STRIDE differs from the stride of
                the logits.
        """
        settings = cfg.MODEL.SEM_SEG_HEAD
        shapes = select_features(
            input_shape, settings.IN_FEATURES, "MODEL.SEM_SEG_HEAD.IN_FEATURES"
        )
        finest = min(shapes, key=lambda name: shapes[name].stride)
        if settings.COMMON_STRIDE != shapes[finest].stride:
            raise InputError(
                f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {settings.COMMON_STRIDE}, but the logits of "
                f"{cls.__name__} have the stride of the finest of IN_FEATURES, {finest}: set it "
                f"to {shapes[finest].stride}"
            )
        arguments = {
            "input_shape": shapes,
            "num_classes": settings.NUM_CLASSES,
            "norm": settings.NORM,
            "dropout": settings.DROPOUT,
            "loss_weight": settings.LOSS_WEIGHT,
            "ignore_value": settings.IGNORE_VALUE,
            "fused_loss": cfg.MODEL.LOSS.FUSED,
        }
        if settings.CONVS_DIM:
            arguments["conv_dims"] = settings.CONVS_DIM
        return arguments

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Return logits (N, K, h, w) at the head's stride."""
        raise NotImplementedError

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return losses in training and logits in inference, as detectron2's heads do.

        Args:
            features: features of the backbone, by name.
            targets: int64 labels (N, H, W), in training only.

        Returns:
            None and the losses in training; logits (N, K, H, W) and {} in inference. If the
            backbone has rounded a size up, the logits are larger than the image, at the right and
            the bottom.
        """
        predictions = self.layers(features)
        if self.training:
            return None, self.losses(predictions, targets)
        return self.upsample(predictions), {}

    def upsample(self, predictions: Tensor) -> Tensor:
        """Return logits at the images' resolution."""
        return F.interpolate(
            predictions, scale_factor=self.common_stride, mode="bilinear", align_corners=False
        )

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return {"loss_sem_seg": scalar} for logits (N, K, h, w) and labels (N, H, W)."""
        return self.loss(predictions, targets)

    def select(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return the features that the head reads, finest first."""
        return [features[name] for name in self.in_features]


class Predictor(Conv2d):
    """The classifier: a 1x1 convolution that may drop channels of its input.

    The dropout rate is an argument of `forward`, so a hook on the input reads the whole embedding.
    SAR calls the predictor without dropout, as a plain convolution.
    """

    def __init__(self, embed_dim: int, num_classes: int):
        super().__init__(embed_dim, num_classes, kernel_size=1)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, embedding: Tensor, dropout: float = 0.0) -> Tensor:
        """Return the logits (N, K, h, w) of an embedding (N, C, h, w)."""
        if self.training:
            embedding = F.dropout2d(embedding, dropout)
        return super().forward(embedding)


def select_features(
    input_shape: dict[str, ShapeSpec], names: Sequence[str], key: str
) -> dict[str, ShapeSpec]:
    """Return the shapes of the features that a config key names.

    Raises:
        InputError: the key is empty, or names a feature that is not in `input_shape`.
    """
    provided = ", ".join(input_shape)
    if not names:
        raise InputError(f"{key} is empty: name features of the backbone. It has {provided}")
    for name in names:
        if name not in input_shape:
            raise InputError(
                f'{key} names "{name}", which the backbone does not have.'
                f"{nearest(name, input_shape)} It has {provided}"
            )
    return {name: input_shape[name] for name in names}


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, norm: str, activation=F.relu
) -> Conv2d:
    """Build a convolution that keeps the resolution, with norm and ReLU.

    If the norm is "", the convolution has a bias instead.

    Raises:
        InputError: the norm is unknown or does not fit the number of channels.
    """
    try:
        norm_layer = get_norm(norm, out_channels)
    except (KeyError, ValueError) as error:
        raise InputError(
            f'MODEL.SEM_SEG_HEAD.NORM "{norm}" does not fit {out_channels} channels ({error}): '
            "set it to BN or SyncBN, or use a multiple of 32 channels for GN"
        ) from error
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=norm_layer,
        activation=activation,
    )
    c2_msra_fill(conv)
    return conv


def resize(features: Tensor, like: Tensor) -> Tensor:
    """Resize `features` bilinearly to the resolution of `like`."""
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)


def concatenate(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate maps along their channels, at the resolution of the first map."""
    return torch.cat([maps[0], *(resize(other, maps[0]) for other in maps[1:])], dim=1)
