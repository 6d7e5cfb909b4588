"""Decoder of SegFormer, made of linear layers only."""

from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from sar.modeling.heads.base import SemanticHead, concatenate, conv_norm

from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY


@SEM_SEG_HEADS_REGISTRY.register()
class SegFormerHead(SemanticHead):
    """All-MLP decoder of Xie et al., "SegFormer", NeurIPS 2021, eq. 4.

    One linear layer per feature outputs C channels. Its outputs are upsampled to the finest feature
    and concatenated. A linear layer with norm and ReLU fuses them. The linear layers are 1x1
    convolutions.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int = 256,
        norm: str = "BN",
        **kwargs,
    ):
        """
        Args:
            input_shape: channels and stride of each feature that the head reads, by name.
            num_classes: K.
            conv_dims: C, channels of the linear layers. The paper's larger models have 768.
            norm: norm of the fusion layer.
            kwargs: further arguments of SemanticHead.
        """
        super().__init__(input_shape, num_classes=num_classes, embed_dim=conv_dims, **kwargs)
        self.convs = nn.ModuleList(
            Conv2d(channels, conv_dims, kernel_size=1) for channels in self.in_channels
        )
        for conv in self.convs:
            c2_xavier_fill(conv)
        self.fusion_conv = conv_norm(len(self.in_channels) * conv_dims, conv_dims, 1, norm)

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        maps = [conv(x) for conv, x in zip(self.convs, self.select(features), strict=True)]
        return self.predictor(self.fusion_conv(concatenate(maps)), self.dropout)
