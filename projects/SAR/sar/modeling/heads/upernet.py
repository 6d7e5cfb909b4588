"""UPerNet: pyramid pooling on the coarsest feature, then a feature pyramid."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sar.modeling.heads.base import SemanticHead, concatenate, conv_norm, resize

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY


@SEM_SEG_HEADS_REGISTRY.register()
class UPerNetHead(SemanticHead):
    """UPerNet (Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018).

    Pyramid pooling, as in PSPNet (Zhao et al., CVPR 2017), is applied to the coarsest feature. A
    feature pyramid leads from there to the finest feature. Its levels are fused at the finest
    resolution.

    The coarsest pooling leaves one value per channel and image. PyTorch therefore refuses to train
    on one image per process with BN, and on one image in total with SyncBN.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: str = "BN",
        **kwargs,
    ):
        """
        Args:
            input_shape: channels and stride of each feature that the head reads, by name.
            num_classes: K.
            conv_dims: C, channels of every convolution.
            pool_scales: heights and widths that the coarsest feature is pooled to.
            norm: norm of the convolutions.
            kwargs: further arguments of SemanticHead.
        """
        super().__init__(input_shape, num_classes=num_classes, embed_dim=conv_dims, **kwargs)
        *finer, coarsest = self.in_channels
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), conv_norm(coarsest, conv_dims, 1, norm))
            for scale in pool_scales
        )
        pooled_channels = coarsest + len(pool_scales) * conv_dims
        self.bottleneck = conv_norm(pooled_channels, conv_dims, 3, norm)
        self.lateral_convs = nn.ModuleList(
            conv_norm(channels, conv_dims, 1, norm) for channels in finer
        )
        self.fpn_convs = nn.ModuleList(conv_norm(conv_dims, conv_dims, 3, norm) for _ in finer)
        self.fpn_bottleneck = conv_norm(len(self.in_channels) * conv_dims, conv_dims, 3, norm)

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        *finer, coarsest = self.select(features)
        level = self.pool(coarsest)
        pyramid = [level]
        for index in reversed(range(len(finer))):
            lateral = self.lateral_convs[index](finer[index])
            level = lateral + resize(level, lateral)
            pyramid.insert(0, self.fpn_convs[index](level))
        return self.predictor(self.fpn_bottleneck(concatenate(pyramid)), self.dropout)

    def pool(self, coarsest: Tensor) -> Tensor:
        """Return the coarsest feature fused with its context at every scale, (N, C, h', w')."""
        context = [resize(module(coarsest), coarsest) for module in self.psp_modules]
        return self.bottleneck(torch.cat([coarsest, *context], dim=1))
