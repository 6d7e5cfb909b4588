#!/usr/bin/env python
"""Write the labels of PASCAL-Context with 59 classes: pascal_context_{train,val}.

The program needs these files, as downloaded, in VOCdevkit/VOC2010/:

  JPEGImages/            of VOCtrainval_03-May-2010.tar, host.robots.ox.ac.uk/pascal/VOC/voc2010
  trainval_merged.json   of PASCAL in Detail, codalabuser.blob.core.windows.net/public/

It writes SegmentationClassContext59/{train,val}/NAME.png, with ids 0 to 58. Background is 255,
which is ignored. A second run only writes missing files.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from sar import cli

EXAMPLE = "python tools/prepare_pascal_context.py --folder ~/data/VOCdevkit/VOC2010"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.download_parser(__doc__, EXAMPLE, "VOCdevkit/VOC2010")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import numpy as np
from pycocotools import mask as mask_util

from sar.data import preparation
from sar.data.datasets.pascal_context import CLASS_OF_OFFICIAL_ID, IMAGES, LABELS, NUM_IMAGES
from sar.errors import InputError

REMEDY = "`python tools/prepare_pascal_context.py --help` lists the needed files and their sources."
_IGNORE = 255
_NEW_ID = {official: i for i, official in enumerate(CLASS_OF_OFFICIAL_ID)} | {0: _IGNORE}


def main(argv: list[str] | None = None) -> int:
    return preparation.run(prepare_pascal_context, parse_args(argv))


def prepare_pascal_context(
    folder: Path, threads: int, num_images: Mapping[str, int] = NUM_IMAGES, *, quiet: bool = False
) -> None:
    """Write the labels. Raise InputError if files are missing or there are too many."""
    images, annotations = read_annotations(folder / "trainval_merged.json")
    for split, expected in num_images.items():
        of_split = [image for image in images if image["phase"] == split]
        what = f"images of the split {split} in trainval_merged.json"
        preparation.check_count(of_split, expected, what, REMEDY)
        files = [folder / IMAGES / image["file_name"] for image in of_split]
        preparation.check_there(files, f"images of the split {split}", REMEDY)
    for split in num_images:
        preparation.convert_missing(
            lambda image, target: write_label(image, annotations[image["image_id"]], target),
            {
                folder / LABELS / split / f"{Path(image['file_name']).stem}.png": image
                for image in images
                if image["phase"] == split
            },
            desc=f"pascal_context_{split}",
            threads=threads,
            quiet=quiet,
        )


def read_annotations(path: Path) -> tuple[list[dict], dict[int, list[dict]]]:
    """Return the images, and the masks of the segments for each image_id."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        annotations = defaultdict(list)
        for segment in data["annos_segmentation"]:
            annotations[segment["image_id"]].append(segment)
        return data["images"], annotations
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error!r}). {REMEDY}") from error


def write_label(image: dict, segments: list[dict], target: Path) -> None:
    """Draw the segments of an image in their order, each a mask (H, W), and write the label."""
    label = np.full((image["height"], image["width"]), _IGNORE, np.uint8)
    for segment in segments:
        if segment["category_id"] not in _NEW_ID:
            raise InputError(
                f"{image['file_name']} has a segment of the category {segment['category_id']}, "
                f"which is not one of the 59 categories or background. {REMEDY}"
            )
        mask = mask_util.decode(segment["segmentation"]).astype(bool)
        if mask.shape != label.shape:
            raise InputError(
                f"{image['file_name']} is {label.shape[1]} x {label.shape[0]}, but one of its "
                f"segments is {mask.shape[1]} x {mask.shape[0]}. {REMEDY}"
            )
        label[mask] = _NEW_ID[segment["category_id"]]
    preparation.write_label(label, target)


if __name__ == "__main__":
    sys.exit(main())
