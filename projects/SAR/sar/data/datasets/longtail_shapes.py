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

import errno
import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util
from tqdm import tqdm

from sar.data import datasets
from sar.data.class_frequency import ClassFrequency
from sar.data.datasets.longtail_shapes_drawing import (
    BACKGROUNDS,
    HEIGHT,
    IGNORE,
    SHAPES,
    WIDTH,
    draw_scene,
)
from sar.errors import InputError, nearest
from sar.files.atomic import sha256

from detectron2.structures import BoxMode
from detectron2.utils import comm

NAME = "longtail_shapes"
SPLITS = ("train", "val", "test")
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
RECIPE = "recipe.json"
SEED = 0
NUM_IMAGES = {"train": 600, "val": 150, "test": 300}
# With fewer pictures of a class than this its IoU would be a matter of chance.
MIN_IMAGES_OF_CLASS = {"train": 1, "val": 10, "test": 20}

logger = logging.getLogger(__name__)


def generate(
    folder: str | os.PathLike,
    *,
    seed: int = SEED,
    num_images: Mapping[str, int] = NUM_IMAGES,
) -> None:
    """Generate the data set as `folder`, unless it is there from the same recipe already.

    The data set is written to a temporary folder next to `folder` and renamed when it is complete.
    So `folder` never holds half a data set, and processes that generate at the same time all
    succeed. A data set of another recipe is replaced if all its files are as they were generated.

    Args:
        folder: where to generate; a leading ~ is the home folder.

    Raises:
        InputError: `folder` is a file or a link, or holds files that were not generated.
        OSError: `folder` cannot be written.
    """
    folder = Path(os.path.abspath(os.path.expanduser(folder)))  # a link stays a link
    recipe = {"version": RECIPE_VERSION, "seed": seed, **num_images}
    if _read_recipe(folder)[0] == recipe:
        return
    _check_replaceable(folder)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        for split in SPLITS:
            _generate_split(temporary, split, num_images[split], seed)
        (temporary / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        files = {name: _checksum(temporary / name) for name in _files_in(temporary)}
        (temporary / RECIPE).write_text(json.dumps({**recipe, "files": files}))
        _move_into_place(temporary, folder, recipe)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_longtail_shapes(split: str) -> list[dict]:
    """The images of a split (of SPLITS) as detectron2 data set dicts; generated if need be.

    Raises:
        InputError: unknown split, or no place to write the data set to.
    """
    if split not in SPLITS:
        raise InputError(
            f'{NAME} has no split "{split}".{nearest(split, SPLITS)} There are: '
            f"{', '.join(SPLITS)}."
        )
    folder = _generated_folder()
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


def _generated_folder() -> Path:
    """The data set's folder: under the root of the data sets or, is that read-only, datasets/."""
    folder, fallback = Path(datasets.root()) / NAME, Path("datasets") / NAME
    try:
        generate(folder)
        return folder
    except OSError as error:
        reason = error
    try:
        generate(fallback)
    except OSError as error:
        raise InputError(
            f"The generated data set {NAME} can be written neither to {folder} ({reason}) nor to "
            f"{fallback.resolve()} ({error}). {datasets.describe_root()}: set it to a folder that "
            "can be written to."
        ) from error
    logger.warning(f"{folder} cannot be written ({reason}): {NAME} is at {fallback.resolve()}.")
    return fallback


def _file_name(index: int) -> str:
    return f"{index:04d}.png"


def _rng(seed: int, split: str, stream: int) -> np.random.Generator:
    """The random numbers of an image (stream: its index + 1) or of the plan of a split (0)."""
    return np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), stream]))


def _plan(split: str, num_images: int, seed: int) -> list[set[str]]:
    """The shapes to draw in each image of a split: each in its share of them, with its leader."""
    rng = _rng(seed, split, 0)
    at_least = MIN_IMAGES_OF_CLASS[split]
    names: list[set[str]] = [set() for _ in range(num_images)]
    for name, shape in SHAPES.items():
        order = np.argsort(rng.random(num_images), kind="stable")
        for index in order[: max(at_least, round(shape.image_share * num_images))]:
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
        scene = draw_scene(_rng(seed, split, index + 1), names)
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


def _read_recipe(folder: Path) -> tuple[dict | None, dict[str, str]]:
    """Return the recipe of the data set in `folder`, and the checksum of each of its files.

    The recipe is None if the folder records none of ours. Earlier versions recorded no checksums.
    """
    try:
        recipe = json.loads((folder / RECIPE).read_text())
    except (OSError, ValueError, RecursionError):
        return None, {}
    files = recipe.pop("files", {}) if isinstance(recipe, dict) else None
    is_ours = isinstance(files, dict) and recipe.keys() == {"version", "seed", *SPLITS}
    if is_ours and all(type(value) is int for value in recipe.values()):
        return recipe, files
    return None, {}


def _checksum(path: Path) -> str:
    """Return the SHA-256 of a file; "" for an empty folder, which a split without images leaves."""
    return sha256(path) if path.is_file() else ""


def _check_replaceable(folder: Path) -> None:
    """Raise InputError unless `folder` is absent, empty, or holds a generated data set alone."""
    while os.path.lexists(folder):
        try:
            looked_at, reason = folder.lstat().st_ino, _reason_to_keep(folder)
            if folder.lstat().st_ino != looked_at:
                continue
        except FileNotFoundError:  # another process replaces it: look again
            continue
        if reason is None:
            return
        raise InputError(
            f"{NAME} cannot be generated in {folder}, because {reason}. Choose another folder (for "
            "the registered data set, through DETECTRON2_DATASETS), or move this one away."
        )


def _reason_to_keep(folder: Path) -> str | None:
    """Return why the existing `folder` must not be replaced; None if it may be."""
    if folder.is_symlink():
        return "it is a link"
    if folder.is_file():
        return "it is a file"
    found = _files_in(folder)
    if not found:
        return None
    recipe, generated = _read_recipe(folder)
    if recipe is None:
        return f"it holds files that were not generated, such as {found[0]}"
    if not generated:
        return "an earlier version generated it, without a checksum of each file"
    for name in found:
        path = folder / name
        if path.is_symlink() or (name not in generated and name != RECIPE):
            return f"{name} was not generated"
        if name != RECIPE and _checksum(path) != generated[name]:
            return f"{name} is not as it was generated"
    return None


def _files_in(folder: Path) -> list[str]:
    """Return the sorted paths below `folder` of all that is not a plain folder with content."""
    found = []
    for entry in os.scandir(folder):
        inside = _files_in(Path(entry)) if entry.is_dir(follow_symlinks=False) else []
        found += [f"{entry.name}/{name}" for name in inside] or [entry.name]
    return sorted(found)


def _move_into_place(temporary: Path, folder: Path, recipe: dict) -> None:
    """Rename `temporary` to `folder`, in place of a data set of another recipe."""
    outdated = temporary.with_name(f"{temporary.name}.old")
    while _read_recipe(folder)[0] != recipe:  # another process may have been faster
        _check_replaceable(folder)  # again: files may have come while images were drawn
        with suppress(FileNotFoundError):
            os.replace(folder, outdated)
            shutil.rmtree(outdated)
        try:
            os.replace(temporary, folder)
            return
        except OSError as error:
            # Another process put its folder there in between: check that folder.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
