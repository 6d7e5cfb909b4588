"""Head of HRNet: a convolution on concatenated features."""

from torch import Tensor, nn

from sar.modeling.heads.base import SemanticHead, concatenate, conv_norm

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(SemanticHead):
    """Fully convolutional head: upsample the features, concatenate, convolve, classify.

    This is the head of HRNetV2 (Wang et al., "Deep High-Resolution Representation Learning for
    Visual Recognition", TPAMI 2020). It follows Long et al., "Fully Convolutional Networks", CVPR
    2015.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int | None = None,
        kernel_size: int = 1,
        norm: str = "BN",
        **kwargs,
    ):
        """
        Args:
            input_shape: channels and stride of each feature that the head reads, by name.
            num_classes: K.
            conv_dims: C, channels of the convolution. By default, it is the sum of the features'
                channels, which is 720 for HRNet-W48.
            kernel_size: size of the convolution.
            norm: norm of the convolution.
            kwargs: further arguments of SemanticHead.
        """
        channels = sum(shape.channels for shape in input_shape.values())
        conv_dims = conv_dims or channels
        super().__init__(input_shape, num_classes=num_classes, embed_dim=conv_dims, **kwargs)
        self.convs = nn.Sequential(conv_norm(channels, conv_dims, kernel_size, norm))

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        return self.classify(concatenate(self.select(features)))

    def classify(self, concatenated: Tensor) -> Tensor:
        """Return the logits (N, K, h, w) of the concatenated features."""
        return self.predictor(self.convs(concatenated), self.dropout)
