"""Find the folders that hold data sets, into which programs must not write."""

import os
from pathlib import Path

from sar.data import datasets
from sar.data.datasets.folder import CLOUDS, IMAGES, SPLITS

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

# Below `datasets.root()`, as datasets/README.md shows them.
_BENCHMARKS = (
    "ADE20K_2021_17_01",
    "ADEChallengeData2016",
    "Stanford3dDataset_v1.2",
    "VOCdevkit",
    "camvid",
    "cityscapes",
    "coco",
    "longtail_rooms",
    "longtail_shapes",
    "oakland",
    "scannet",
    "semantic_kitti",
)
# Keys of folders in the metadata of data sets, both of detectron2 and of this project.
_METADATA = ("image_root", "sem_seg_root", "image_dir", "gt_dir")


def folders_of_config(cfg: CfgNode) -> list[Path]:
    """Return the folders of a config's data sets that are known without loading them."""
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    folders = [folder for name in names for folder in folders_of_data_set(name)]
    return folders + (folders_of_tree(cfg.DATASETS.FOLDER) if cfg.DATASETS.FOLDER else [])


def folders_of_data_set(name: str) -> list[Path]:
    """Return the folders of a registered data set and of all benchmarks."""
    folders = [Path(datasets.root(), benchmark) for benchmark in _BENCHMARKS]
    if name in DatasetCatalog:
        metadata = MetadataCatalog.get(name)
        folders += [Path(metadata.get(key)) for key in _METADATA if metadata.get(key)]
    return folders


def folders_of_tree(folder: str | os.PathLike) -> list[Path]:
    """Return the folders of a DATASETS.FOLDER. Each of them may be a link."""
    root = Path(os.path.expanduser(folder))
    parts = [root / part for part in (*IMAGES, *CLOUDS)]
    return [root, *parts, *(part / split for part in parts for split in SPLITS)]
