"""Test-time augmentation of point clouds: average over rotations, scales, mirrors and voxel grids.

Shape shorthands: P points, K classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from sar.data.cloud_mapper import CloudMapper
from sar.data.clouds import Cloud
from sar.errors import InputError
from sar.points.geometry import rotation_about, transform

from detectron2.config import CfgNode

# Multiples of square roots of primes, modulo 1, spread evenly (Richtmyer's sequence).
_GRID_STEP = np.sqrt([2.0, 3.0, 5.0])


def check_voting(cfg: CfgNode) -> None:
    """Raise InputError if the keys of TEST describe no inference mode of a PointSegmentor."""
    test = cfg.TEST
    if test.MODE == "slide":
        raise InputError(
            "TEST.MODE slide: a PointSegmentor takes whole clouds, whose memory grows only with "
            'their occupied voxels: set TEST.MODE "whole"'
        )
    for key, values, least, expected in (
        ("ANGLES", test.AUG.ANGLES, -math.inf, "angles in degrees, such as (0, 90)"),
        ("SCALES", test.AUG.SCALES, 0, "factors above 0, such as (0.95, 1, 1.05)"),
    ):
        if not (values and all(_is_number(value) and value > least for value in values)):
            raise InputError(f"TEST.AUG.{key} is {values}, expected one or more {expected}")
    if test.WINDOWS_PER_BATCH < 1:
        raise InputError(f"TEST.WINDOWS_PER_BATCH is {test.WINDOWS_PER_BATCH}, expected 1 or more")


def _is_number(value: object) -> bool:
    # type() instead of isinstance(), which accepts True as a number
    return type(value) in (int, float) and math.isfinite(value)


@dataclass(frozen=True, eq=False)
class Pass:
    """Change of a cloud before a pass of the network.

    Attributes:
        matrix: (3, 3), rotates about the vertical axis through the origin, and may mirror.
        scale: factor of all lengths.
        shift: (3,), shift of the points against the grid, in voxels.
    """

    matrix: np.ndarray
    scale: float
    shift: np.ndarray

    def apply(self, cloud: Cloud, voxel_size: float) -> Cloud:
        """Return the changed cloud. The identity keeps every bit."""
        xyz = transform(cloud.xyz, self.scale * self.matrix)
        xyz += voxel_size * self.shift
        normal = cloud.normal
        if normal is not None:
            normal = transform(normal, self.matrix).astype(normal.dtype)
        return replace(cloud, xyz=xyz, normal=normal)


def passes(angles: Sequence[float], scales: Sequence[float], *, flip: bool) -> Iterator[Pass]:
    """Yield all combinations of angles, scales and mirrors. Each has a voxel grid of its own.

    The grid of the first pass is not shifted.

    Args:
        angles: of rotations about the vertical axis, in degrees.
        scales: factors of all lengths.
        flip: also mirror x.
    """
    mirrors = ([1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]) if flip else ([1.0, 1.0, 1.0],)
    for number, (mirror, scale, angle) in enumerate(product(mirrors, scales, angles)):
        matrix = rotation_about(2, math.radians(angle)) * mirror
        yield Pass(matrix, scale, number * _GRID_STEP % 1)


class VotingPointSegmentor(nn.Module):
    """Run a PointSegmentor several times on each cloud, and average its probabilities.

    The points of a voxel share their prediction. The grid differs between the passes, so that each
    point is predicted with other neighbours. With a single pass that changes nothing, "sem_seg" is
    the softmax of the model's logits bit for bit. Clouds are processed one by one. The device holds
    the logits of `passes_per_batch` passes, and the sum of their probabilities.

    Args:
        model: a PointSegmentor.
        mapper: makes its input.
        angles, scales, flip: as in `passes`.
        passes_per_batch: number of passes that the network processes together.
    """

    def __init__(
        self,
        model: nn.Module,
        mapper: CloudMapper,
        *,
        angles: Sequence[float] = (0.0,),
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        passes_per_batch: int = 1,
    ) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # the mode that detectron2 restores after evaluation
        self.mapper = mapper
        self.passes = list(passes(angles, scales, flip=flip))
        self.passes_per_batch = passes_per_batch

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Return {"sem_seg": (K, 1, P)} for each cloud: probabilities, float32.

        Args:
            batched_inputs: dicts of `CloudMapper` with "cloud", the cloud as it was read.
        """
        return [
            {"sem_seg": self._probabilities(sample["cloud"], sample.get("file_name", "the cloud"))}
            for sample in batched_inputs
        ]

    def _probabilities(self, cloud: Cloud, path: str) -> Tensor:
        total = None
        for start in range(0, len(self.passes), self.passes_per_batch):
            samples = [
                self.mapper.map_points(change.apply(cloud, self.mapper.voxel_size), path)
                for change in self.passes[start : start + self.passes_per_batch]
            ]
            for output in self.model(samples):
                probabilities = output["sem_seg"].float().softmax(dim=0)
                total = probabilities if total is None else total.add_(probabilities)
        return total.div_(len(self.passes))
