"""The folders that hold data sets, where no program may write."""

import os
from pathlib import Path

from sar.data import datasets
from sar.data.datasets.folder import SPLITS

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

# Below `datasets.root()`, as datasets/README.md shows them.
_BENCHMARKS = (
    "ADE20K_2021_17_01",
    "ADEChallengeData2016",
    "VOCdevkit",
    "camvid",
    "cityscapes",
    "coco",
    "longtail_shapes",
)
# Under which names the metadata of detectron2's and of this project's data sets have folders.
_METADATA = ("image_root", "sem_seg_root", "image_dir", "gt_dir")


def folders_of_config(cfg: CfgNode) -> list[Path]:
    """Return the folders of a config's data sets, as far as they are known without loading them."""
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    folders = [folder for name in names for folder in folders_of_data_set(name)]
    return folders + (folders_of_tree(cfg.DATASETS.FOLDER) if cfg.DATASETS.FOLDER else [])


def folders_of_data_set(name: str) -> list[Path]:
    """Return the folders of a registered data set, and those of all benchmarks."""
    folders = [Path(datasets.root(), benchmark) for benchmark in _BENCHMARKS]
    if name in DatasetCatalog:
        metadata = MetadataCatalog.get(name)
        folders += [Path(metadata.get(key)) for key in _METADATA if metadata.get(key)]
    return folders


def folders_of_tree(folder: str | os.PathLike) -> list[Path]:
    """Return the folders of a DATASETS.FOLDER; each of them may be a link to another place."""
    root = Path(os.path.expanduser(folder))
    parts = [root / part for part in ("images", "labels")]
    return [root, *parts, *(part / split for part in parts for split in SPLITS)]
