"""Map a data set's dict to the sample of a point cloud that `PointSegmentor` takes.

Shape shorthands: P points, F features of a point.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch

from sar.data.clouds import Cloud, read_cloud
from sar.data.label_files import read_truth
from sar.errors import InputError, nearest
from sar.points.augmentation import PointAugmentation, mix3d
from sar.points.geometry import floor_center
from sar.points.voxels import voxel_coordinates

from detectron2.config import CfgNode, configurable

# The features that a point can have, and their channels.
FEATURES = {"xyz": 3, "color": 3, "normal": 3, "intensity": 1}


def num_features(names: Sequence[str]) -> int:
    """Return F, the number of channels of INPUT.POINTS.FEATURES.

    Raises:
        InputError: a name is unknown, or there is none.
    """
    for name in names:
        if name not in FEATURES:
            raise InputError(
                f'INPUT.POINTS.FEATURES: "{name}" is unknown.{nearest(name, FEATURES)} Known are '
                f"{', '.join(FEATURES)}"
            )
    if not names:
        raise InputError(f"INPUT.POINTS.FEATURES is empty: name some of {', '.join(FEATURES)}")
    return sum(FEATURES[name] for name in names)


class CloudMapper:
    """Read a cloud and, in training, augment it; make tensors.

    The random numbers come only from the generator that is passed to the call.

    Args:
        is_train: augment the clouds, and check the labels; otherwise leave this to the evaluator.
        voxel_size: length of a voxel's edge, in the unit of the files.
        features: names from FEATURES.
        num_classes: K; label ids are 0 to K - 1, or `ignore_label`.
        ignore_label: the id of points without a class.
        augmentation: None for none; training only.
        keep_cloud: also return the cloud as it was read, for test-time augmentation.

    Attributes:
        partners: the data set's dicts that Mix3D chooses from.

    Raises:
        InputError: `voxel_size` is not positive, or a feature is unknown.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        voxel_size: float,
        features: Sequence[str],
        num_classes: int,
        ignore_label: int,
        augmentation: PointAugmentation | None = None,
        keep_cloud: bool = False,
    ) -> None:
        if not 0 < voxel_size < float("inf"):
            raise InputError(
                f"INPUT.POINTS.VOXEL_SIZE is {voxel_size}, expected a positive length in the unit "
                "of the files, such as 0.05"
            )
        num_features(features)
        self.is_train = is_train
        self.voxel_size = voxel_size
        self.features = tuple(features)
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.augmentation = augmentation
        self.keep_cloud = keep_cloud
        self.partners: Sequence[dict] = ()

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        points = cfg.INPUT.POINTS
        return {
            "is_train": is_train,
            "voxel_size": points.VOXEL_SIZE,
            "features": points.FEATURES,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "augmentation": PointAugmentation.from_config(cfg) if is_train else None,
            "keep_cloud": not is_train and cfg.TEST.AUG.ENABLED,
        }

    def __call__(self, dataset_dict: dict, rng: np.random.Generator | None = None) -> dict:
        """Return the sample of a data set's dict, without changing the dict.

        Args:
            dataset_dict: with "file_name", a cloud, and for training "sem_seg_file_name".
            rng: random generator for augmentation; None for one that the system seeds.

        Returns:
            `dataset_dict` with "image" (F, 1, P) float32, the features; "coordinates" (P, 3) int64,
            the voxel of each point; "height" 1 and "width" P; in training, "sem_seg" (1, P) int64;
            otherwise, "cloud_label", the labels (P,) in the cloud, or None; with `keep_cloud`,
            "cloud".

        Raises:
            InputError: a file is missing or unreadable, lacks a feature, is too large for its
                voxels, or has a label that is not a class and not `ignore_label`.
        """
        path = dataset_dict["file_name"]
        if not self.is_train:
            cloud = read_cloud(path)
            return dataset_dict | self.map_points(cloud, path) | {"cloud_label": cloud.label}
        rng = rng or np.random.default_rng()
        cloud = self._read_with_label(dataset_dict)
        if self.augmentation is not None:
            cloud = self.augmentation(cloud, rng)
            if self.partners and self.augmentation.draw_mix(rng):
                partner = self.partners[rng.integers(len(self.partners))]
                # A partner that cannot be used is reported when its own turn comes.
                with suppress(InputError):
                    other = self._read_with_label(partner)
                    cloud = mix3d([cloud, self.augmentation(other, rng)])
        sample = dataset_dict | self.map_points(cloud, path)
        sample["sem_seg"] = torch.from_numpy(cloud.label[None])
        return sample

    def _read_with_label(self, dataset_dict: dict) -> Cloud:
        path = dataset_dict["file_name"]
        label_path = dataset_dict.get("sem_seg_file_name")
        if label_path is None:
            raise InputError(
                f"The cloud {path} has no label to train on: add its "
                '"sem_seg_file_name" to the data set\'s dict, or remove the cloud.'
            )
        cloud = read_cloud(path)
        own = cloud.label if label_path == path else None
        (label,) = read_truth(label_path, self.num_classes, self.ignore_label, cloud_label=own)
        if len(label) != len(cloud):
            raise InputError(
                f"{label_path} has {len(label)} labels, but its cloud {path} has {len(cloud)} "
                "points: export them again."
            )
        # Mix3D needs equal arrays, but only in the features that the model takes.
        unused = dict.fromkeys(FEATURES.keys() - {"xyz", *self.features})
        return replace(cloud, label=label.astype(np.int64), **unused)

    def map_points(self, cloud: Cloud, path: str = "the cloud") -> dict:
        """Return all but "sem_seg" of a sample, from a cloud in memory.

        Args:
            path: names the cloud in an error message.

        Raises:
            InputError: the cloud lacks a feature, or is too large for its voxels.
        """
        coordinates = voxel_coordinates(cloud.xyz, self.voxel_size, path)
        columns = []
        for name in self.features:
            values = cloud.xyz - floor_center(cloud.xyz) if name == "xyz" else getattr(cloud, name)
            if values is None:
                raise InputError(
                    f"{path} has no {name}, which INPUT.POINTS.FEATURES names: remove "
                    f'"{name}" from it, or add it to all clouds'
                )
            columns.append(np.asarray(values, np.float32).reshape(len(cloud.xyz), -1))
        features = np.concatenate(columns, axis=1)
        sample = {
            "image": torch.from_numpy(np.ascontiguousarray(features.T))[:, None],
            "coordinates": torch.from_numpy(coordinates),
            "height": 1,
            "width": len(coordinates),
        }
        return sample | {"cloud": cloud} if self.keep_cloud else sample
