"""longtail_shapes_{train,val,test}: a small generated data set whose classes have a long tail.

Landscapes with a wall and nine shapes. Their frequency falls like a power law, in pixels and in
images, and each rare shape lies next to or on a frequent one with the same colours and textures.
Everything follows from the seed, pixel for pixel, on any machine. The data set is generated at
first use, in seconds, under the folder of the data sets:

    longtail_shapes/
        images/{train,val,test}/NAME.png  labels/{train,val,test}/NAME.png  8 bit, 255 is ignored
        classes.txt                       a name a line
        class_frequency.json              of the training labels
        instances_{train,val,test}.json   the shapes in COCO's format, visible parts as RLE
        recipe.json                       what it was generated from, and a checksum of each file;
                                          marks the folder as ours
"""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util
from tqdm import tqdm

from sar.data import datasets
from sar.data.class_frequency import ClassFrequency
from sar.data.datasets.generated import (
    SPLITS,
    check_split,
    generate_folder,
    generated_folder,
    random_numbers,
    samples_with,
)
from sar.data.datasets.longtail_shapes_drawing import (
    BACKGROUNDS,
    HEIGHT,
    IGNORE,
    SHAPES,
    WIDTH,
    draw_scene,
)

from detectron2.structures import BoxMode
from detectron2.utils import comm

NAME = "longtail_shapes"
CLASSES = BACKGROUNDS + tuple(SHAPES)
THING_CLASSES = tuple(SHAPES)
COLORS = (
    (128, 180, 226),
    (122, 164, 84),
    (170, 120, 100),
    (250, 200, 60),
    (40, 110, 200),
    (30, 130, 70),
    (150, 70, 170),
    (20, 190, 200),
    (240, 110, 40),
    (60, 60, 120),
    (255, 80, 160),
    (200, 30, 40),
)
# Raise this number if the pixels change, so that data sets on disk are generated again.
RECIPE_VERSION = 1
SEED = 0
NUM_IMAGES = {"train": 600, "val": 150, "test": 300}
# With fewer pictures of a class than this its IoU would be a matter of chance.
MIN_IMAGES_OF_CLASS = {"train": 1, "val": 10, "test": 20}


def generate(
    folder: str | os.PathLike,
    *,
    seed: int = SEED,
    num_images: Mapping[str, int] = NUM_IMAGES,
) -> None:
    """Generate the data set as `folder`, unless it is there from the same recipe already.

    Args:
        folder: where to generate; a leading ~ is the home folder.

    Raises:
        InputError, OSError: as `generate_folder`.
    """
    recipe = {"version": RECIPE_VERSION, "seed": seed, **num_images}

    def write_split(target: Path, split: str) -> None:
        _generate_split(target, split, num_images[split], seed)

    generate_folder(NAME, folder, recipe, CLASSES, write_split)


def load_longtail_shapes(split: str) -> list[dict]:
    """The images of a split (of SPLITS) as detectron2 data set dicts; generated if need be.

    Raises:
        InputError: unknown split, or no place to write the data set to.
    """
    check_split(NAME, split)
    folder = generated_folder(NAME, generate)
    return [
        {
            "file_name": str(folder / "images" / split / _file_name(index)),
            "sem_seg_file_name": str(folder / "labels" / split / _file_name(index)),
            "image_id": index,
            "height": HEIGHT,
            "width": WIDTH,
        }
        for index in range(NUM_IMAGES[split])
    ]


def load_longtail_shapes_instances(split: str) -> list[dict]:
    """As load_longtail_shapes, with "annotations": the shapes, as detectron2 wants instances.

    Their category_id is an index of THING_CLASSES and their segmentation a compressed RLE, for
    `INPUT.MASK_FORMAT: "bitmask"`. Separate, since semantic segmentation has no use for them.
    """
    dicts = load_longtail_shapes(split)
    folder = Path(dicts[0]["file_name"]).parents[2]
    for record in dicts:
        record["annotations"] = []
    for instance in json.loads((folder / f"instances_{split}.json").read_text())["annotations"]:
        annotation = {
            "bbox": instance["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": instance["category_id"],
            "segmentation": mask_util.frPyObjects(instance["segmentation"], HEIGHT, WIDTH),
            "iscrowd": 0,
        }
        dicts[instance["image_id"]]["annotations"].append(annotation)
    return dicts


def register() -> None:
    """Register longtail_shapes_{train,val,test} and, with instances, longtail_shapes_panoptic_...

    Nothing is generated before one of them is loaded.
    """
    for split in SPLITS:
        load = partial(load_longtail_shapes, split)
        datasets.register(f"{NAME}_{split}", load, CLASSES, COLORS, IGNORE)
        load = partial(load_longtail_shapes_instances, split)
        name = f"{NAME}_panoptic_{split}"
        things = {"thing_classes": list(THING_CLASSES), "thing_colors": COLORS[len(BACKGROUNDS) :]}
        datasets.register(name, load, CLASSES, COLORS, IGNORE, **things)


def _file_name(index: int) -> str:
    return f"{index:04d}.png"


def _plan(split: str, num_images: int, seed: int) -> list[set[str]]:
    """The shapes to draw in each image of a split: each in its share of them, with its leader."""
    rng = random_numbers(seed, split, 0)
    names: list[set[str]] = [set() for _ in range(num_images)]
    for name, shape in SHAPES.items():
        for index in samples_with(shape.image_share, MIN_IMAGES_OF_CLASS[split], num_images, rng):
            names[index] |= {name, shape.leader}
    return names


def _generate_split(folder: Path, split: str, num_images: int, seed: int) -> None:
    image_folder, label_folder = folder / "images" / split, folder / "labels" / split
    image_folder.mkdir(parents=True)
    label_folder.mkdir(parents=True)
    pixels = np.zeros(IGNORE + 1, dtype=np.int64)
    images = np.zeros(IGNORE + 1, dtype=np.int64)
    annotations: list[dict] = []
    progress = tqdm(
        _plan(split, num_images, seed),
        desc=f"Generating {NAME}_{split}",
        disable=not comm.is_main_process(),
    )
    for index, names in enumerate(progress):
        scene = draw_scene(random_numbers(seed, split, index + 1), names)
        Image.fromarray(scene.image).save(image_folder / _file_name(index), compress_level=3)
        Image.fromarray(scene.label).save(label_folder / _file_name(index))
        counts = np.bincount(scene.label.ravel(), minlength=IGNORE + 1)
        pixels += counts
        images += counts > 0
        for class_id, mask in scene.instances:
            annotations.append(_annotation(len(annotations) + 1, index, class_id, mask))

    coco = {
        "images": [
            {"id": i, "file_name": _file_name(i), "height": HEIGHT, "width": WIDTH}
            for i in range(num_images)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(THING_CLASSES)],
    }
    (folder / f"instances_{split}.json").write_text(json.dumps(coco, separators=(",", ":")))
    if split == "train":
        ClassFrequency(
            class_names=CLASSES,
            num_images=num_images,
            images=tuple(images[: len(CLASSES)].tolist()),
            pixels=tuple(pixels[: len(CLASSES)].tolist()),
            ignored_pixels=int(pixels[IGNORE]),
        ).save(folder / "class_frequency.json")


def _annotation(number: int, image_id: int, class_id: int, mask: np.ndarray) -> dict:
    """An instance in COCO's format; mask (H, W) bool. Its RLE runs down the columns."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    return {
        "id": number,
        "image_id": image_id,
        "category_id": class_id - len(BACKGROUNDS),
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(mask.sum()),
        "iscrowd": 0,
        # The first run is one of zeros, empty where the mask starts with a one.
        "segmentation": {"size": list(mask.shape), "counts": [0] * int(flat[0]) + runs},
    }
