"""Logits and labels in the form that all losses compute with.

Shape shorthands: N images, K classes, h x w the resolution of the logits, H x W of the labels, M
samples.
"""

import torch
import torch.nn.functional as F


def as_maps(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (N, K, h, w) in float32 or float64, and labels (N, H, W).

    Args:
        logits: (N, K, h, w), or (M, K) for samples such as points. Half precision becomes float32.
        targets: (N, H, W), or (M,). Samples become an image with one row.
    """
    if logits.dim() == 2:
        logits, targets = logits.T[None, :, None], targets[None, None]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), targets


def upsample(logits: torch.Tensor, stride: int, targets: torch.Tensor) -> torch.Tensor:
    """Return logits (N, K, H, W) for labels (N, H, W), from logits (N, K, h, w) at a stride.

    The interpolation is bilinear. Logits beyond the labels' right and bottom edges are cropped.
    """
    if stride > 1:
        logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    height, width = targets.shape[-2:]
    return logits[..., :height, :width]
