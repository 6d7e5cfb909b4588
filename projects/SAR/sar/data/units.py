"""The words for the samples of a data set, and for their parts, in what a person reads."""

import os
from dataclasses import dataclass

from sar.data.clouds import is_cloud

from detectron2.config import CfgNode


@dataclass(frozen=True)
class Units:
    """Words, such as "image" and "pixel", with an s in the plural; and a class is "on" an image."""

    sample: str
    part: str
    on: str


IMAGES, CLOUDS = Units("image", "pixel", "on"), Units("cloud", "point", "in")


def units_of_file(path: str | os.PathLike) -> Units:
    """Return the units of a data set with this file."""
    return CLOUDS if is_cloud(path) else IMAGES


def units_of_config(cfg: CfgNode) -> Units:
    """Return the units of the data sets of a config."""
    return CLOUDS if cfg.INPUT.POINTS.VOXEL_SIZE else IMAGES
