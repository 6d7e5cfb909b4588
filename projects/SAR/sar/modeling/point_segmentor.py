"""Semantic segmentation of point clouds: a sparse U-Net on voxels, and a linear classifier.

A cloud is an image with one row, so evaluation, losses and regularizers are those of images.

Shape shorthands: P points, V voxels, F input features, C embedding channels, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sar.data.cloud_mapper import num_features
from sar.errors import InputError
from sar.losses import CrossEntropy
from sar.modeling.head_loss import SegmentationLoss
from sar.points.layers import SparseTensor, use_spconv_triton
from sar.points.sites import Sites
from sar.points.sparse_unet import SparseUNet
from sar.points.voxels import majority_labels, voxel_means

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY

BACKENDS = ("pytorch", "spconv-triton")


def choose_backend(unet: SparseUNet, backend: str, device: torch.device) -> None:
    """Choose what computes the convolutions of a network on a device.

    Raises:
        InputError: an unknown backend, or a package that is not installed and that the device
            needs.
    """
    if backend not in BACKENDS:
        raise InputError(
            f'MODEL.SPARSE_UNET.BACKEND is "{backend}", expected one of {", ".join(BACKENDS)}.'
        )
    if backend == "spconv-triton" and device.type == "cuda":
        try:
            use_spconv_triton(unet)
        except ImportError as error:
            raise InputError(
                f"MODEL.SPARSE_UNET.BACKEND spconv-triton needs this package ({error}): "
                "pip install -e .[spconv], or set the key to pytorch."
            ) from error


class VoxelFeatures(NamedTuple):
    """Features (V, C) of voxels, and the voxel (P,) of each point."""

    features: Tensor
    voxel_of: Tensor


class VoxelBackbone(nn.Module):
    """Sparse U-Net on the voxels of a batch of clouds.

    Args:
        unet: the network. A voxel's input is the mean of its points' features.
    """

    size_divisibility = 0

    def __init__(self, unet: SparseUNet):
        super().__init__()
        self.unet = unet
        self.out_channels = unet.out_channels

    def forward(self, points: Tensor, clouds: Tensor, coordinates: Tensor) -> VoxelFeatures:
        """Return the features of the occupied voxels.

        Args:
            points: (1, F, 1, P), the features of all points.
            clouds: (P,) int64, the number of each point's cloud.
            coordinates: (P, 3) int64 voxel coordinates.
        """
        sites, voxel_of = Sites.of_voxels(clouds, coordinates)
        means = voxel_means(points[0, :, 0].T, voxel_of, len(sites))
        return VoxelFeatures(self.unet(SparseTensor(means, sites)).features, voxel_of)


class PointHead(nn.Module):
    """Linear classifier of embeddings, called as detectron2's semantic heads.

    Args:
        in_channels: C.
        num_classes: K.
        loss_weight: factor of the loss.
        ignore_value: label of points that do not count.
        fused_loss: see `sar.losses.CrossEntropy`.
    """

    common_stride = 1

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        fused_loss: bool = True,
    ):
        super().__init__()
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        criterion = CrossEntropy(ignore_value, fused=fused_loss)
        self.loss = SegmentationLoss(criterion, stride=1, loss_weight=loss_weight)
        self.predictor = nn.Linear(in_channels, num_classes)

    def forward(
        self, embeddings: Tensor, targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return None and the losses in training, logits (1, K, 1, V) and {} in evaluation.

        Args:
            embeddings: (1, V, C), of voxels or points.
            targets: (1, 1, V) int64, in training only.
        """
        logits = self.predictor(embeddings).transpose(1, 2)[:, :, None]
        if self.training:
            return None, self.losses(logits, targets)
        return logits, {}

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return {"loss_sem_seg": scalar} for logits (1, K, 1, V) and labels (1, 1, V)."""
        return self.loss(predictions, targets)


@META_ARCH_REGISTRY.register()
class PointSegmentor(nn.Module):
    """Segment the points of clouds.

    In training, the loss is a mean over the voxels of the batch, with labels by majority. In
    evaluation, each point gets the logits of its voxel.

    Args:
        backbone: `VoxelBackbone`.
        sem_seg_head: `PointHead`.
    """

    @configurable
    def __init__(self, *, backbone: VoxelBackbone, sem_seg_head: PointHead):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        settings, head = cfg.MODEL.SPARSE_UNET, cfg.MODEL.SEM_SEG_HEAD
        unet = SparseUNet(
            num_features(cfg.INPUT.POINTS.FEATURES),
            stem=settings.STEM,
            channels=settings.CHANNELS,
            blocks=settings.BLOCKS,
        )
        choose_backend(unet, settings.BACKEND, torch.device(cfg.MODEL.DEVICE))
        backbone = VoxelBackbone(unet)
        return {
            "backbone": backbone,
            "sem_seg_head": PointHead(
                backbone.out_channels,
                head.NUM_CLASSES,
                loss_weight=head.LOSS_WEIGHT,
                ignore_value=head.IGNORE_VALUE,
                fused_loss=cfg.MODEL.LOSS.FUSED,
            ),
        }

    @property
    def device(self) -> torch.device:
        return self.sem_seg_head.predictor.weight.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Return losses in training, and [{"sem_seg": (K, 1, P)}] in evaluation.

        Args:
            batched_inputs: dicts of `CloudMapper`: "image" (F, 1, P) float, "coordinates" (P, 3)
                int64 and, in training, "sem_seg" (1, P) int64.

        Raises:
            InputError: in training, a single cloud that is too small for batch norm.
        """
        if self.training and len(batched_inputs) == 1:
            self._check_extent(batched_inputs[0])
        points = torch.cat([x["image"].to(self.device) for x in batched_inputs], dim=2)
        coordinates = torch.cat([x["coordinates"].to(self.device) for x in batched_inputs])
        sizes = [len(x["coordinates"]) for x in batched_inputs]
        numbers = torch.arange(len(sizes), device=self.device)
        clouds = numbers.repeat_interleave(torch.tensor(sizes, device=self.device))
        voxels = self.backbone(points[None], clouds, coordinates)
        if self.training:
            labels = torch.cat([x["sem_seg"][0].to(self.device) for x in batched_inputs])
            targets = majority_labels(
                labels, voxels.voxel_of, len(voxels.features), self.sem_seg_head.ignore_value
            )
            _, losses = self.sem_seg_head(voxels.features[None], targets[None, None])
            return losses
        # The embedding of each point, so that embeddings and labels of evaluations have one size.
        logits, _ = self.sem_seg_head(voxels.features[voxels.voxel_of][None])
        return [{"sem_seg": part} for part in logits[0].split(sizes, dim=2)]

    def _check_extent(self, sample: dict) -> None:
        """Raise InputError if a batch of one cloud is one voxel on the coarsest level."""
        voxels = 2 ** len(self.backbone.unet.encoder)  # of the finest level, along an axis
        coordinates = sample["coordinates"]
        if ((coordinates - coordinates.amin(dim=0)) < voxels).all():
            raise InputError(
                f"{sample.get('file_name', 'The cloud')} is alone in the batch of its process and "
                f"extends over at most {voxels} voxels, which are one on the coarsest level of the "
                "sparse U-Net, but batch norm needs two to train: set SOLVER.IMS_PER_BATCH higher, "
                "INPUT.POINTS.VOXEL_SIZE lower, or remove the cloud."
            )
