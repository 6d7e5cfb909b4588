"""Advice on the size of voxels: whether voxels mix classes, so that points cannot be told apart.

Shape shorthands: K classes, N points of a cloud.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from sar.advice.item import Advice
from sar.data.class_frequency import ClassFrequency
from sar.data.clouds import read_cloud
from sar.data.label_files import read_label
from sar.data.tail import percent
from sar.errors import listed, printable
from sar.points.sites import Sites
from sar.points.voxels import majority_labels, voxel_coordinates

from detectron2.config import CfgNode

# Voxels are too coarse if more points than this have another class than their voxel, of all points
# or of the points of a class.
_MOST_MIXED, _MOST_OF_CLASS = 0.02, 0.2
_FEWEST_POINTS = 10  # of a class, for a share of its own
_NUM_NAMED = 3  # classes that the text names


@dataclass(frozen=True, eq=False)
class VoxelMix:
    """How voxels of one size mix the classes of some clouds.

    Attributes:
        edge: the length of a voxel's edge.
        points: (K,) number of points of each class.
        mixed: (K,) number of points of each class whose voxel has another class by majority.
        points_per_voxel: the mean number of points in a voxel, with ignored points.
        num_clouds: number of the measured clouds.
    """

    edge: float
    points: np.ndarray
    mixed: np.ndarray
    points_per_voxel: float
    num_clouds: int

    @property
    def share(self) -> float:
        """The share of all points whose voxel has another class."""
        return float(self.mixed.sum() / max(self.points.sum(), 1))

    def worst(self) -> list[tuple[int, float]]:
        """Return classes and their shares of mixed points, the largest share first."""
        shares = {
            k: float(self.mixed[k] / self.points[k])
            for k in np.flatnonzero(self.mixed).tolist()
            if self.points[k] >= _FEWEST_POINTS
        }
        return sorted(shares.items(), key=lambda pair: -pair[1])

    @property
    def is_too_coarse(self) -> bool:
        return self.share > _MOST_MIXED or any(s > _MOST_OF_CLASS for _, s in self.worst())


def measure_mixing(
    records: Sequence[dict],
    edges: Sequence[float],
    num_classes: int,
    ignore_label: int,
    *,
    progress: bool = True,
) -> list[VoxelMix]:
    """Measure how voxels of some sizes mix the classes of clouds.

    Args:
        records: data set dicts of clouds, at least one.
        edges: lengths of a voxel's edge, in the unit of the files.
        num_classes: K.
        ignore_label: the label of points that do not count.
        progress: show a progress bar.

    Raises:
        InputError: a cloud is missing or unreadable, or too large for its voxels.
    """
    points = np.zeros(num_classes, np.int64)
    mixed = np.zeros((len(edges), num_classes), np.int64)
    num_points, num_voxels = 0, np.zeros(len(edges), np.int64)
    for record in tqdm(records, "Measuring voxels", unit="cloud", disable=not progress):
        cloud = read_cloud(record["file_name"])
        label = read_label(record["sem_seg_file_name"])[0].astype(np.int64)
        counted = (label < num_classes) & (label != ignore_label)
        points += np.bincount(label[counted], minlength=num_classes)
        num_points += len(label)
        for row, edge in enumerate(edges):
            coordinates = voxel_coordinates(cloud.xyz, edge, record["file_name"])
            of_voxel, number = _majority(coordinates, label, ignore_label)
            num_voxels[row] += number
            differs = counted & (of_voxel != label)
            mixed[row] += np.bincount(label[differs], minlength=num_classes)
    return [
        VoxelMix(edge, points, mixed[row], num_points / num_voxels[row], len(records))
        for row, edge in enumerate(edges)
    ]


def _majority(
    coordinates: np.ndarray, label: np.ndarray, ignore_label: int
) -> tuple[np.ndarray, int]:
    """Return the label (N,) of each point's voxel as in training, and the number of voxels."""
    clouds = torch.zeros(len(label), dtype=torch.int64)
    sites, voxel_of = Sites.of_voxels(clouds, torch.from_numpy(coordinates))
    labels = majority_labels(torch.from_numpy(label), voxel_of, len(sites), ignore_label)
    return labels[voxel_of].numpy(), len(sites)


def advise_on_voxels(
    frequency: ClassFrequency, mix: VoxelMix, finer: VoxelMix, cfg: CfgNode
) -> Advice:
    """Return advice on INPUT.POINTS.VOXEL_SIZE.

    Args:
        frequency: counts of a training set.
        mix: measured at INPUT.POINTS.VOXEL_SIZE.
        finer: measured at half of it.
        cfg: the config of the training.
    """
    start = "A"
    if mix.num_clouds < frequency.num_images:
        start = f"Measured on {mix.num_clouds} of {frequency.num_images} clouds: a"
    text = (
        f"{start} voxel of {mix.edge:g} (INPUT.POINTS.VOXEL_SIZE, in the unit of the files) has "
        f"{mix.points_per_voxel:.1f} points on average. {_describe_mixed(frequency, mix)}"
    )
    if not mix.is_too_coarse:
        return Advice("voxel size", f"{text} This is fine.")
    text += (
        f" A point gets the class of its voxel, so this is too coarse. With {finer.edge:g}, it is "
        f"{percent(finer.share)}, with {mix.points_per_voxel / finer.points_per_voxel:.1f} times "
        "as many voxels."
    )
    if finer.mixed.sum() >= mix.mixed.sum():
        return Advice("voxel size", f"{text} So the labels themselves mix: look at the pictures.")
    return Advice("voxel size", text, {"INPUT.POINTS.VOXEL_SIZE": f"{finer.edge:g}"})


def _describe_mixed(frequency: ClassFrequency, mix: VoxelMix) -> str:
    text = f"{percent(mix.share)} of the labelled points have another class than their voxel"
    if not (worst := mix.worst()):
        return f"{text}."
    names = [f"{printable(frequency.class_names[k])} {percent(s)}" for k, s in worst[:_NUM_NAMED]]
    return f"{text}, most often {listed(names)}."
