"""A head around a non-local block."""

import torch
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from sar.modeling.heads.base import SemanticHead, attend, concatenate, conv_norm

from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY


class NonLocal(nn.Module):
    """The non-local block of Wang et al., "Non-local Neural Networks", CVPR 2018, eq. 6, with the
    embedded Gaussian:

        z_i = x_i + norm(W_z sum_j softmax_j(theta(x_i)^T phi(x_j) / sqrt(D)) g(x_j))

    Divided by sqrt(D), which the paper's eq. 3 is not, as in Vaswani et al., NeurIPS 2017. It
    starts as the identity, from a norm (or W_z, where there is none) of zero.

    Args:
        channels: of x and z.
        inner_dims: D, of theta, phi and g.
        norm: after W_z.
    """

    def __init__(self, channels: int, inner_dims: int, norm: str = "BN"):
        super().__init__()
        self.theta = Conv2d(channels, inner_dims, kernel_size=1)
        self.phi = Conv2d(channels, inner_dims, kernel_size=1)
        self.g = Conv2d(channels, inner_dims, kernel_size=1)
        for conv in (self.theta, self.phi, self.g):
            c2_xavier_fill(conv)
        self.conv_out = conv_norm(inner_dims, channels, 1, norm, activation=None)
        nn.init.zeros_((self.conv_out.norm or self.conv_out).weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to the same shape."""
        return x + self.conv_out(attend(self.theta(x), self.phi(x), self.g(x)))


@SEM_SEG_HEADS_REGISTRY.register()
class NonLocalHead(SemanticHead):
    """A non-local block between two 3x3 convolutions, fused with the feature that they read.

    Every place attends to every other: meant for one feature, of stride 8 or more. Several are
    upsampled to the finest and concatenated.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int = 512,
        norm: str = "BN",
        **kwargs,
    ):
        """
        Args:
            input_shape: channels and stride of each feature that the head reads, by name.
            num_classes: K.
            conv_dims: C, channels of the convolutions; those inside the block have half.
            norm: of the convolutions.
            kwargs: of SemanticHead.
        """
        super().__init__(input_shape, num_classes=num_classes, embed_dim=conv_dims, **kwargs)
        channels = sum(self.in_channels)
        self.convs = nn.ModuleList(
            [conv_norm(channels, conv_dims, 3, norm), conv_norm(conv_dims, conv_dims, 3, norm)]
        )
        self.nl_block = NonLocal(conv_dims, conv_dims // 2, norm)
        self.conv_cat = conv_norm(channels + conv_dims, conv_dims, 3, norm)

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        x = concatenate(self.select(features))
        around = self.convs[1](self.nl_block(self.convs[0](x)))
        return self.predictor(self.conv_cat(torch.cat([x, around], dim=1)), self.dropout)
