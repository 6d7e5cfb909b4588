"""The words for the samples of a data set, and for their parts, in what a person reads."""

import os
from contextlib import suppress
from dataclasses import dataclass

from sar.data.clouds import is_cloud, read_cloud
from sar.errors import InputError

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


def lacks_labels(record: dict) -> bool:
    """Return whether a data set dict is a readable cloud without labels.

    Images without labels are never data sets (see `register_folder`), but clouds hold their labels.
    """
    file = record["file_name"]
    with suppress(InputError):
        holds_labels = is_cloud(file) and record.get("sem_seg_file_name", file) == file
        return holds_labels and read_cloud(file).label is None
    return False
