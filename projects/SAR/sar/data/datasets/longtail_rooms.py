"""longtail_rooms_{train,val,test}: small generated point clouds whose classes have a long tail.

Rooms with furniture and small things, each a cloud of points with colours and normals. Floor, walls
and a table are in every room. Each further class is in fewer rooms than the one before; bottles and
cups are in a few training rooms only. The colours of the classes overlap. Everything follows from
the seed. The data set is generated at first use, in seconds, under the folder of the data sets:

    longtail_rooms/
        clouds/{train,val,test}/NAME.npz  xyz float32 (N, 3) in metres, z up; color uint8 (N, 3);
                                          normal float32 (N, 3); label uint8 (N,)
        classes.txt                       one name per line
        class_frequency.json              of the training labels
        recipe.json                       see generated.py; marks the folder as ours
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
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
from sar.points.rooms import CHANCES, CLASS_NAMES, COLORS, furnish, paint, scan

from detectron2.utils import comm

NAME = "longtail_rooms"
# Raise this number if the points change, so that data sets on disk are generated again.
RECIPE_VERSION = 1
SEED = 0
NUM_ROOMS = {"train": 60, "val": 30, "test": 60}
NUM_POINTS = 8000  # of a room
# The shares of the rooms that get one thing more of a class. Each share is drawn separately.
SHARES = {
    "chair": (0.85, 0.5, 0.2),
    "cabinet": (0.7,),
    "box": (0.5, 0.25),
    "lamp": (0.35,),
    "ball": (0.2,),
    "bottle": (0.08,),
    "cup": (0.05,),
}
# With fewer rooms that show a class than this, its IoU would be a matter of chance.
MIN_ROOMS_OF_CLASS = {"train": 1, "val": 6, "test": 12}


def generate(
    folder: str | os.PathLike,
    *,
    seed: int = SEED,
    num_rooms: Mapping[str, int] = NUM_ROOMS,
) -> None:
    """Generate the data set as `folder`, unless it is there from the same recipe already.

    Args:
        folder: where to generate; a leading ~ is the home folder.

    Raises:
        InputError, OSError: as `generate_folder`.
    """
    recipe = {"version": RECIPE_VERSION, "seed": seed, "points": NUM_POINTS, **num_rooms}

    def write_split(target: Path, split: str) -> None:
        _generate_split(target, split, num_rooms[split], seed)

    generate_folder(NAME, folder, recipe, CLASS_NAMES, write_split)


def load_longtail_rooms(split: str) -> list[dict]:
    """Return the rooms of a split as data set dicts, after generating them if needed.

    A cloud counts as an image with one row. Its points and its labels are in the same file.

    Raises:
        InputError: unknown split, or no place to write the data set to.
    """
    check_split(NAME, split)
    folder = generated_folder(NAME, generate) / "clouds" / split
    return [
        {
            "file_name": str(folder / _file_name(index)),
            "sem_seg_file_name": str(folder / _file_name(index)),
            "image_id": index,
            "height": 1,
            "width": NUM_POINTS,
        }
        for index in range(NUM_ROOMS[split])
    ]


def register() -> None:
    """Register longtail_rooms_{train,val,test}. Nothing is generated before one is loaded."""
    for split in SPLITS:
        load = partial(load_longtail_rooms, split)
        datasets.register(f"{NAME}_{split}", load, CLASS_NAMES, COLORS)


def _file_name(index: int) -> str:
    return f"{index:04d}.npz"


def _plan(split: str, num_rooms: int, seed: int) -> list[dict[str, tuple[float, ...]]]:
    """Return the chances of each room of a split for `furnish`: 1 for the things that it has."""
    generator = random_numbers(seed, split, 0)
    rooms = [dict.fromkeys(CHANCES, ()) for _ in range(num_rooms)]
    for name, shares in SHARES.items():
        for number, share in enumerate(shares):
            at_least = 0 if number else MIN_ROOMS_OF_CLASS[split]
            for index in samples_with(share, at_least, num_rooms, generator):
                rooms[index][name] += (1.0,)
    return rooms


def _generate_split(folder: Path, split: str, num_rooms: int, seed: int) -> None:
    cloud_folder = folder / "clouds" / split
    cloud_folder.mkdir(parents=True)
    counts = np.zeros((num_rooms, len(CLASS_NAMES)), dtype=np.int64)
    progress = tqdm(
        _plan(split, num_rooms, seed),
        desc=f"Generating {NAME}_{split}",
        disable=not comm.is_main_process(),
    )
    for index, chances in enumerate(progress):
        generator = random_numbers(seed, split, index + 1)
        points = scan(furnish(generator, chances), NUM_POINTS, generator)
        np.savez_compressed(
            cloud_folder / _file_name(index),
            # A tenth of a millimetre: the last bits would depend on the machine.
            xyz=points.positions.round(4).astype(np.float32),
            color=paint(points, generator),
            normal=points.normals.round(3).astype(np.float32),
            label=points.labels.astype(np.uint8),
        )
        counts[index] = np.bincount(points.labels, minlength=len(CLASS_NAMES))
    if split == "train":
        ClassFrequency(
            class_names=CLASS_NAMES,
            num_images=num_rooms,
            images=tuple((counts > 0).sum(axis=0).tolist()),
            pixels=tuple(counts.sum(axis=0).tolist()),
            ignored_pixels=0,
        ).save(folder / "class_frequency.json")
