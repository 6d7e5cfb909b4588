"""Sparse U-Net for voxels.

MinkUNet: Choy et al., CVPR 2019 (4D Spatio-Temporal ConvNets). SpUNet: the network of Pointcept on
ScanNet200. Both have this structure, with other widths and numbers of blocks.

Shape shorthands: V sites, C channels.
"""

from collections.abc import Sequence

import torch
from torch import nn

from sar.points.layers import (
    DownConvolution,
    SparseTensor,
    SubmanifoldConvolution,
    UpConvolution,
)


class SparseUNet(nn.Module):
    """U-Net of submanifold convolutions, with a feature vector at each input site.

    A stem of kernel size 5. Then each stage of the encoder halves the resolution, and has residual
    blocks. Each stage of the decoder doubles it, appends the features of the encoder, and has
    residual blocks.

    Args:
        in_channels: channels of the input, such as coordinates, colour and normal.
        stem: channels of the stem.
        channels: of the encoder's stages, then of the decoder's; an even number of them.
        blocks: number of residual blocks of each stage, in the same order.

    Raises:
        ValueError: `channels` and `blocks` differ in length, or it is odd or 0.

    Example::

        >>> from sar.points.sites import Sites
        >>> clouds, voxels = torch.zeros(5, dtype=torch.int64), torch.randint(9, (5, 3))
        >>> sites, site_of = Sites.of_voxels(clouds, voxels)
        >>> model = SparseUNet(3, stem=8, channels=(16, 8), blocks=(1, 1)).eval()
        >>> features = model(SparseTensor(torch.randn(len(sites), 3), sites)).features
        >>> features.shape[1] == model.out_channels == 8
        True
    """

    def __init__(
        self,
        in_channels: int,
        *,
        stem: int = 32,
        channels: Sequence[int] = (32, 64, 128, 256, 256, 128, 96, 96),
        blocks: Sequence[int] = (2, 3, 4, 6, 2, 2, 2, 2),
    ):
        super().__init__()
        if len(channels) != len(blocks) or len(channels) % 2 or not channels:
            raise ValueError(
                "expected an even number of stages, and as many numbers of blocks as channels, "
                f"found channels={tuple(channels)} and blocks={tuple(blocks)}"
            )
        self.stem = SubmanifoldConvolution(in_channels, stem, kernel_size=5)
        self.stem_norm = _NormReLU(stem)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        half = len(channels) // 2
        widths = [stem, *channels[:half]]  # of the features that the decoder appends
        for width, out, number in zip(widths, channels[:half], blocks[:half], strict=False):
            self.encoder.append(_Encoder(width, out, number))
        width = channels[half - 1]
        appended = widths[-2::-1]
        for skip, out, number in zip(appended, channels[half:], blocks[half:], strict=True):
            self.decoder.append(_Decoder(width, skip, out, number))
            width = out
        self.out_channels = width

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Return features (V, out_channels) at the sites of `x`."""
        x = self.stem(x).map(self.stem_norm)
        skips = []
        for stage in self.encoder:
            skips.append(x)
            x = stage(x)
        for stage in self.decoder:
            x = stage(x, skips.pop())
        return x


class _NormReLU(nn.Sequential):
    def __init__(self, channels: int):
        super().__init__(nn.BatchNorm1d(channels), nn.ReLU())


class _Block(nn.Module):
    """Two convolutions and a shortcut, as in a ResNet."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.convolution1 = SubmanifoldConvolution(in_channels, out_channels)
        self.norm1 = _NormReLU(out_channels)
        self.convolution2 = SubmanifoldConvolution(out_channels, out_channels)
        self.norm2 = nn.BatchNorm1d(out_channels)
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Linear(in_channels, out_channels, bias=False), nn.BatchNorm1d(out_channels)
            )

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = self.convolution1(x).map(self.norm1)
        y = self.convolution2(y).map(self.norm2)
        features = torch.relu(y.features + self.shortcut(x.features))
        return SparseTensor(features, x.sites)


class _Encoder(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, num_blocks: int):
        super().__init__()
        self.down = DownConvolution(in_channels, out_channels)
        self.norm = _NormReLU(out_channels)
        self.blocks = nn.Sequential(
            *(_Block(out_channels, out_channels) for _ in range(num_blocks))
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.blocks(self.down(x).map(self.norm))


class _Decoder(nn.Module):
    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, num_blocks: int):
        super().__init__()
        self.up = UpConvolution(in_channels, out_channels)
        self.norm = _NormReLU(out_channels)
        widths = [out_channels + skip_channels] + [out_channels] * (num_blocks - 1)
        self.blocks = nn.Sequential(*(_Block(width, out_channels) for width in widths))

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        y = self.up(x, skip.sites).map(self.norm)
        features = torch.cat([y.features, skip.features], dim=1)
        return self.blocks(SparseTensor(features, skip.sites))
