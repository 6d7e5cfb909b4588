"""Register CamVid: road scenes with 11 classes (Brostow et al. 2009; Badrinarayanan et al. 2017).

Read from `camvid/images/{train,val,test}/NAME.jpg` (or another kind of image) and
`camvid/labels/{train,val,test}/NAME.png` under DETECTRON2_DATASETS.
"""

import os
from functools import partial

from sar.data import datasets
from sar.data.datasets.folder import pair_images_and_labels

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign_symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
COLORS = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
SPLITS = ("train", "val", "test")


def load_camvid(split: str) -> list[dict]:
    """Load the data set dicts of a split, "train", "val" or "test".

    Raises:
        InputError: a folder is missing or empty, or an image has no label.
    """
    image_root, label_root = (
        os.path.join(datasets.root(), "camvid", part, split) for part in ("images", "labels")
    )
    remedy = (
        f"{datasets.describe_root()}: set it to the folder that holds "
        f"camvid/images/{split}/NAME.jpg and camvid/labels/{split}/NAME.png (datasets/README.md "
        "shows the tree)."
    )
    return pair_images_and_labels(image_root, label_root, remedy=remedy)


def register() -> None:
    """Register camvid_{train,val,test}."""
    for split in SPLITS:
        datasets.register(f"camvid_{split}", partial(load_camvid, split), CLASSES, COLORS)
