"""Object-contextual representations: each pixel attends to the objects of its image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sar.modeling.heads.base import SemanticHead, concatenate, conv_norm
from sar.modeling.heads.fcn import FCNHead

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY


def gather_regions(pixels: Tensor, region_logits: Tensor) -> Tensor:
    """Return one vector per class: a weighted mean of the pixels (Yuan et al., ECCV 2020, eq. 2).

    The weights of a class are the softmax of its logits over the pixels of the image.

    Args:
        pixels: (N, C, h, w).
        region_logits: (N, K, h, w).

    Returns:
        (N, C, K, 1), so that 1x1 convolutions can read it.
    """
    weights = region_logits.flatten(2).softmax(dim=2)
    return (pixels.flatten(2) @ weights.to(pixels.dtype).transpose(1, 2)).unsqueeze(3)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query^T key / sqrt(D)) value at each pixel of `query`, as a map (N, C, h, w).

    `query` is (N, D, h, w). `key` (N, D, ...) and `value` (N, C, ...) have the same spatial size.
    """
    query, key, value, size = *map(_as_sequence, (query, key, value)), query.shape[-2:]
    attended = F.scaled_dot_product_attention(query, key, value)
    return attended.squeeze(1).transpose(1, 2).unflatten(2, size)


def _as_sequence(features: Tensor) -> Tensor:
    """Reshape (N, C, h, w) to (N, 1, h * w, C), with one attention head."""
    # For tensors that are not contiguous, PyTorch would store the weights of all pairs of pixels.
    return features.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)


class ObjectAttention(nn.Module):
    """Attention of pixels to object regions (Yuan et al., ECCV 2020, eqs. 3 and 4).

    y_i = rho(sum_k softmax_k(phi(x_i)^T psi(f_k) / sqrt(D)) delta(f_k)), and the output is
    g([y_i, x_i]). As in the authors' code, the product is divided by sqrt(D). phi and psi are each
    two 1x1 convolutions with norm and ReLU; delta, rho and g are each one.

    Args:
        channels: C, channels of pixels, regions and the output.
        key_dims: D, channels of the attention.
        norm: norm of the convolutions.
    """

    def __init__(self, channels: int, key_dims: int, norm: str = "BN"):
        super().__init__()

        def transform():
            return nn.Sequential(
                conv_norm(channels, key_dims, 1, norm), conv_norm(key_dims, key_dims, 1, norm)
            )

        self.query_project = transform()
        self.key_project = transform()
        self.value_project = conv_norm(channels, key_dims, 1, norm)
        self.out_project = conv_norm(key_dims, channels, 1, norm)
        self.bottleneck = conv_norm(2 * channels, channels, 1, norm)

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Return (N, C, h, w) from pixels (N, C, h, w) and regions (N, C, K, 1)."""
        query, key = self.query_project(pixels), self.key_project(regions)
        context = self.out_project(attend(query, key, self.value_project(regions)))
        return self.bottleneck(torch.cat([context, pixels], dim=1))


@SEM_SEG_HEADS_REGISTRY.register()
class OCRHead(SemanticHead):
    """Object-contextual representations (OCR).

    Yuan et al., "Object-Contextual Representations for Semantic Segmentation", ECCV 2020. An FCN
    head on the same features, with its own loss, predicts the region of each class. It runs in
    training and in inference.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int = 512,
        region_loss_weight: float = 0.4,
        norm: str = "BN",
        **kwargs,
    ):
        """
        Args:
            input_shape: channels and stride of each feature that the head reads, by name.
            num_classes: K.
            conv_dims: C, channels of pixels and regions. The attention has half as many.
            region_loss_weight: factor of the loss of the regions.
            norm: norm of the convolutions.
            kwargs: further arguments of SemanticHead.
        """
        super().__init__(input_shape, num_classes=num_classes, embed_dim=conv_dims, **kwargs)
        self.region_head = FCNHead(
            input_shape,
            num_classes=num_classes,
            norm=norm,
            # Dropout would reach the embedding through the regions.
            **{**kwargs, "dropout": 0.0, "loss_weight": region_loss_weight},
        )
        self.bottleneck = conv_norm(sum(self.in_channels), conv_dims, 3, norm)
        self.object_context_block = ObjectAttention(conv_dims, conv_dims // 2, norm)

    @classmethod
    def from_config(cls, cfg, input_shape):
        arguments = super().from_config(cfg, input_shape)
        arguments["region_loss_weight"] = cfg.MODEL.SEM_SEG_HEAD.REGION_LOSS_WEIGHT
        return arguments

    def forward(self, features, targets=None):
        """Return the same as `SemanticHead.forward`, plus a loss "loss_sem_seg_regions"."""
        predictions, regions = self.layers(features)
        if not self.training:
            return self.upsample(predictions), {}
        losses = self.losses(predictions, targets)
        region_losses = self.region_head.losses(regions, targets)
        return None, {**losses, "loss_sem_seg_regions": region_losses["loss_sem_seg"]}

    def layers(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits of the head and of the regions, both (N, K, h, w)."""
        x = concatenate(self.select(features))
        region_logits = self.region_head.classify(x)
        pixels = self.bottleneck(x)
        embedding = self.object_context_block(pixels, gather_regions(pixels, region_logits))
        return self.predictor(embedding, self.dropout), region_logits
