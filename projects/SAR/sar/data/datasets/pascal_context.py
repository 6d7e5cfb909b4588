"""Register pascal_context_{train,val}: the 59 most frequent classes (Mottaghi et al. 2014).

Everything else is background and ignored. The images come from PASCAL VOC 2010, and the split comes
from the PASCAL in Detail challenge: 4,996 images for training and 5,104 for validation. The files
are in VOCdevkit/VOC2010 under DETECTRON2_DATASETS. tools/prepare_pascal_context.py writes the
labels.
"""

import os
from functools import partial

from sar.cli import call_of
from sar.data import datasets
from sar.data.datasets.folder import default_colors
from sar.errors import InputError

# The ids among the 459 classes of the official annotation. Our ids follow their order.
CLASS_OF_OFFICIAL_ID = {
    2: "aeroplane",
    9: "bag",
    18: "bed",
    19: "bedclothes",
    22: "bench",
    23: "bicycle",
    25: "bird",
    31: "boat",
    33: "book",
    34: "bottle",
    44: "building",
    45: "bus",
    46: "cabinet",
    59: "car",
    65: "cat",
    68: "ceiling",
    72: "chair",
    80: "cloth",
    85: "computer",
    98: "cow",
    104: "cup",
    105: "curtain",
    113: "dog",
    115: "door",
    144: "fence",
    158: "floor",
    159: "flower",
    162: "food",
    187: "grass",
    189: "ground",
    207: "horse",
    220: "keyboard",
    232: "light",
    258: "motorbike",
    259: "mountain",
    260: "mouse",
    284: "person",
    295: "plate",
    296: "platform",
    308: "pottedplant",
    324: "road",
    326: "rock",
    347: "sheep",
    349: "shelves",
    354: "sidewalk",
    355: "sign",
    360: "sky",
    366: "snow",
    368: "sofa",
    397: "table",
    415: "track",
    416: "train",
    420: "tree",
    424: "truck",
    427: "tvmonitor",
    440: "wall",
    445: "water",
    454: "window",
    458: "wood",
}
CLASSES = tuple(CLASS_OF_OFFICIAL_ID.values())
NUM_IMAGES = {"train": 4996, "val": 5104}
FOLDER = "VOCdevkit/VOC2010"
IMAGES, LABELS = "JPEGImages", "SegmentationClassContext59"


def load_pascal_context(split: str) -> list[dict]:
    """Load the data set dicts of a split, "train" or "val".

    Raises:
        InputError: a folder or an image is missing.
    """
    folder = os.path.join(datasets.root(), FOLDER)
    image_root, label_root = os.path.join(folder, IMAGES), os.path.join(folder, LABELS, split)
    remedy = (
        f"{datasets.describe_root()}. Download it as datasets/README.md says, and run "
        f"`{call_of('tools/prepare_pascal_context.py')}`."
    )
    for path in (image_root, label_root):
        if not os.path.isdir(path):
            raise InputError(f"pascal_context_{split} is not there: no folder {path}. {remedy}")
    names = sorted(
        file[: -len(".png")]
        for file in os.listdir(label_root)
        if file.endswith(".png") and not file.startswith(".")
    )
    missing = sorted({f"{name}.jpg" for name in names} - set(os.listdir(image_root)))
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} images of pascal_context_{split} are not in "
            f"{image_root}, the first being {missing[0]}. {remedy}"
        )
    return [
        {
            "file_name": os.path.join(image_root, f"{name}.jpg"),
            "sem_seg_file_name": os.path.join(label_root, f"{name}.png"),
            "image_id": name,
        }
        for name in names
    ]


def register() -> None:
    """Register pascal_context_{train,val}."""
    colors = default_colors(len(CLASSES))
    for split in NUM_IMAGES:
        load = partial(load_pascal_context, split)
        datasets.register(f"pascal_context_{split}", load, CLASSES, colors)
