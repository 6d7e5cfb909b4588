"""Register COCO-Stuff and COCO-Stuff-LT.

coco_stuff_{train,val} are COCO-Stuff 164k, 80 things and 91 stuff classes (Caesar et al. 2018).
coco_stuff_lt_train is COCO-Stuff-LT, 40,679 of the training images with a longer tail (the LTSS
benchmark, Li et al., TMM 2024). Its validation set is coco_stuff_val. The files are in coco/ under
DETECTRON2_DATASETS. tools/prepare_coco_stuff.py writes the labels.
"""

import os
from functools import partial
from pathlib import Path

from sar.cli import call_of
from sar.data import datasets
from sar.data.datasets.folder import default_colors, pair_images_and_labels
from sar.errors import InputError

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

# The ids of COCO. They have a gap for each of 11 things that COCO names but does not show.
THINGS = {category["id"]: category["name"] for category in COCO_CATEGORIES if category["isthing"]}
# Their ids are 92 to 182. detectron2 has only the names of COCO-panoptic, which merges many.
STUFF = (
    "banner",
    "blanket",
    "branch",
    "bridge",
    "building-other",
    "bush",
    "cabinet",
    "cage",
    "cardboard",
    "carpet",
    "ceiling-other",
    "ceiling-tile",
    "cloth",
    "clothes",
    "clouds",
    "counter",
    "cupboard",
    "curtain",
    "desk-stuff",
    "dirt",
    "door-stuff",
    "fence",
    "floor-marble",
    "floor-other",
    "floor-stone",
    "floor-tile",
    "floor-wood",
    "flower",
    "fog",
    "food-other",
    "fruit",
    "furniture-other",
    "grass",
    "gravel",
    "ground-other",
    "hill",
    "house",
    "leaves",
    "light",
    "mat",
    "metal",
    "mirror-stuff",
    "moss",
    "mountain",
    "mud",
    "napkin",
    "net",
    "paper",
    "pavement",
    "pillow",
    "plant-other",
    "plastic",
    "platform",
    "playingfield",
    "railing",
    "railroad",
    "river",
    "road",
    "rock",
    "roof",
    "rug",
    "salad",
    "sand",
    "sea",
    "shelf",
    "sky-other",
    "skyscraper",
    "snow",
    "solid-other",
    "stairs",
    "stone",
    "straw",
    "structural-other",
    "table",
    "tent",
    "textile-other",
    "towel",
    "tree",
    "vegetable",
    "wall-brick",
    "wall-concrete",
    "wall-other",
    "wall-panel",
    "wall-stone",
    "wall-tile",
    "wall-wood",
    "water-other",
    "waterdrops",
    "window-blind",
    "window-other",
    "wood",
)
CLASS_OF_OFFICIAL_ID = {**THINGS, **dict(enumerate(STUFF, start=92))}
CLASSES = tuple(CLASS_OF_OFFICIAL_ID.values())
NUM_IMAGES = {"train": 118287, "val": 5000}
NUM_LT_IMAGES = 40679
FOLDER, LABELS, LT_LIST = "coco", "coco_stuff_171", "coco-stuff-lt.txt"


def load_coco_stuff(split: str) -> list[dict]:
    """Load the data set dicts of a split, "train" or "val".

    Raises:
        InputError: a folder is missing or empty, or an image has no label.
    """
    folder = os.path.join(datasets.root(), FOLDER)
    remedy = (
        f"{datasets.describe_root()}. Download coco_stuff_{split} as datasets/README.md says, and "
        f"run `{call_of('tools/prepare_coco_stuff.py')}`."
    )
    return pair_images_and_labels(
        os.path.join(folder, f"{split}2017"),
        os.path.join(folder, LABELS, f"{split}2017"),
        remedy=remedy,
    )


def load_coco_stuff_lt() -> list[dict]:
    """Load the data set dicts of the training images of COCO-Stuff-LT.

    Raises:
        InputError: the list of images is missing or wrong; and as in `load_coco_stuff`.
    """
    path = Path(datasets.root(), FOLDER, LT_LIST)
    names = read_lt_list(path)
    by_name = {record["image_id"]: record for record in load_coco_stuff("train")}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise InputError(
            f"{path} names {len(unknown)} images that coco_stuff_train does not have, such as "
            f'"{unknown[0]}": use the list of the authors.'
        )
    return [by_name[name] for name in names]


def read_lt_list(path: Path) -> list[str]:
    """Read the sorted names, without suffix, from a file with a name on each line.

    Raises:
        InputError: the file is missing or empty, or names an image twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The list of the images of COCO-Stuff-LT cannot be read: {error}. Get "
            "coco-stuff-lt.txt from github.com/caopulan/Mask2Former-LT (datasets/README.md there), "
            f"and put it at {path}."
        ) from error
    names = sorted(Path(line).stem for line in lines)
    if not names or len(set(names)) != len(names):
        raise InputError(f"{path} is empty or names an image twice: download it again.")
    return names


def register() -> None:
    """Register coco_stuff_{train,val} and coco_stuff_lt_train."""
    colors = default_colors(len(CLASSES))
    loaders = {f"coco_stuff_{split}": partial(load_coco_stuff, split) for split in NUM_IMAGES}
    loaders["coco_stuff_lt_train"] = load_coco_stuff_lt
    for name, load in loaders.items():
        datasets.register(name, load, CLASSES, colors)
