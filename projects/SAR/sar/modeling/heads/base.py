"""What the semantic heads share: their protocol, which is that of detectron2's, and their parts.

Shape shorthands: N images, C embedding channels, K classes, H x W the images' resolution, padded,
h x w that of a head's logits: H and W divided by the head's stride, rounded up.
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
    """A semantic head that ends in `self.predictor`; its subclasses define `layers`.

    Features are taken from the finest to the coarsest, and the logits are at the finest one's
    stride. Everything between is the subclass's.

    Args:
        input_shape: channels and stride of each feature that the head reads, by name.
        num_classes: K.
        embed_dim: C, of what the predictor is fed.
        dropout: share of the embedding's channels that the predictor does not see in training.
        loss_weight: factor of the loss.
        ignore_value: label of pixels that do not count.
        fused_loss: see `sar.losses.CrossEntropy`.

    Attributes:
        in_features: names of the features, finest first; `in_channels` are their channels.
        common_stride: of the logits.
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
        """The arguments that are the same for all heads, from MODEL.SEM_SEG_HEAD.

        Raises:
            InputError: features that the backbone does not give; a stride that the logits have
                not.
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
        """Logits (N, K, h, w) at the head's stride."""
        raise NotImplementedError

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """As detectron2's heads.

        Args:
            features: of the backbone, by name.
            targets: labels (N, H, W) int64; in training only.

        Returns:
            In training None and the losses; in inference logits (N, K, H, W) and {}. Where the
            backbone has rounded a size up, the logits reach beyond the image, at the right and at
            the bottom.
        """
        predictions = self.layers(features)
        if self.training:
            return None, self.losses(predictions, targets)
        return self.upsample(predictions), {}

    def upsample(self, predictions: Tensor) -> Tensor:
        """From the head's stride to the images' resolution."""
        return F.interpolate(
            predictions, scale_factor=self.common_stride, mode="bilinear", align_corners=False
        )

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """{"loss_sem_seg": scalar}, cross-entropy of logits (N, K, h, w) and labels (N, H, W)."""
        return self.loss(predictions, targets)

    def select(self, features: dict[str, Tensor]) -> list[Tensor]:
        """The features that the head reads, finest first."""
        return [features[name] for name in self.in_features]


class Predictor(Conv2d):
    """The classifier, a 1x1 convolution that may drop channels of what it is fed.

    Dropout is an argument, so that who reads its input reads the embedding as the head made it,
    and who calls it, as SAR does with its anchors, calls a plain convolution.
    """

    def __init__(self, embed_dim: int, num_classes: int):
        super().__init__(embed_dim, num_classes, kernel_size=1)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, embedding: Tensor, dropout: float = 0.0) -> Tensor:
        """Logits (N, K, h, w) of an embedding (N, C, h, w)."""
        if self.training:
            embedding = F.dropout2d(embedding, dropout)
        return super().forward(embedding)


def select_features(
    input_shape: dict[str, ShapeSpec], names: Sequence[str], key: str
) -> dict[str, ShapeSpec]:
    """The shapes of the features that a config key names.

    Raises:
        InputError: there are none, or one that is not among `input_shape`.
    """
    provided = ", ".join(input_shape)
    if not names:
        raise InputError(f"{key} is empty: name features of the backbone, which gives {provided}")
    for name in names:
        if name not in input_shape:
            raise InputError(
                f'{key} names "{name}", which the backbone does not give.'
                f"{nearest(name, input_shape)} It gives {provided}"
            )
    return {name: input_shape[name] for name in names}


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, norm: str, activation=F.relu
) -> Conv2d:
    """A convolution that keeps the resolution, its norm ("" for none, with a bias then), ReLU.

    Raises:
        InputError: an unknown norm, or one that cannot have so many channels.
    """
    try:
        norm_layer = get_norm(norm, out_channels)
    except (KeyError, ValueError) as error:
        raise InputError(
            f'MODEL.SEM_SEG_HEAD.NORM "{norm}" does not go with {out_channels} channels ({error}): '
            "take BN or SyncBN, or, for GN, channels that are a multiple of 32"
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
    """`features` at the resolution of `like`, bilinearly."""
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)


def concatenate(maps: Sequence[Tensor]) -> Tensor:
    """Maps along their channels, at the resolution of the first."""
    return torch.cat([maps[0], *(resize(other, maps[0]) for other in maps[1:])], dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query^T key / sqrt(D)) value, of maps: (N, C, h, w), at each place of `query`.

    `query` is (N, D, h, w); `key` (N, D, ...) and `value` (N, C, ...) have one size. The weights of
    all pairs of places are nowhere in memory at once, where PyTorch has a kernel for that.
    """
    query, key, value, size = *map(_as_sequence, (query, key, value)), query.shape[-2:]
    attended = F.scaled_dot_product_attention(query, key, value)
    return attended.squeeze(1).transpose(1, 2).unflatten(2, size)


def _as_sequence(features: Tensor) -> Tensor:
    """(N, C, h, w) as (N, 1, h * w, C), one attention head."""
    # Contiguous, or PyTorch takes the way that holds the weights of all pairs.
    return features.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)
