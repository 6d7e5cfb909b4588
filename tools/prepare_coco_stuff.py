#!/usr/bin/env python
"""Write the labels of COCO-Stuff 164k with 171 classes: coco_stuff_{train,val}.

The program needs these files, as downloaded, in coco/:

  train2017/, val2017/                   of train2017.zip and val2017.zip, images.cocodataset.org/zips
  stuffthingmaps/{train2017,val2017}/    of stuffthingmaps_trainval2017.zip, github.com/nightrome/cocostuff
  coco-stuff-lt.txt                      only for coco_stuff_lt_train: github.com/caopulan/Mask2Former-LT

It writes coco_stuff_171/{train2017,val2017}/NAME.png, with ids 0 to 170. Unlabelled pixels are 255,
which is ignored. A second run only writes missing files.
"""  # noqa: E501

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from sar import cli

EXAMPLE = "python tools/prepare_coco_stuff.py --folder ~/data/coco"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.download_parser(__doc__, EXAMPLE, "coco")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

from sar.data import preparation
from sar.data.datasets.coco_stuff import (
    CLASS_OF_OFFICIAL_ID,
    LABELS,
    LT_LIST,
    NUM_IMAGES,
    NUM_LT_IMAGES,
    read_lt_list,
)

logger = logging.getLogger("prepare_coco_stuff")
REMEDY = "`python tools/prepare_coco_stuff.py --help` lists the needed files and their sources."
# The maps contain the official ids minus one: 0 to 181.
_NEW_ID = {official - 1: i for i, official in enumerate(CLASS_OF_OFFICIAL_ID)} | {255: 255}


def main(argv: list[str] | None = None) -> int:
    return preparation.run(prepare_coco_stuff, parse_args(argv))


def prepare_coco_stuff(
    folder: Path,
    threads: int,
    num_images: Mapping[str, int] = NUM_IMAGES,
    num_lt_images: int = NUM_LT_IMAGES,
    *,
    quiet: bool = False,
) -> None:
    """Write the labels. Raise InputError if files are missing or there are too many."""
    maps = {}
    for split, expected in num_images.items():
        map_folder = folder / "stuffthingmaps" / f"{split}2017"
        images = preparation.list_files(folder / f"{split}2017", "*.jpg", REMEDY)
        preparation.check_count(images, expected, f"images in {folder / f'{split}2017'}", REMEDY)
        maps[split] = [map_folder / f"{image.stem}.png" for image in images]
        preparation.check_there(maps[split], f"label maps of the split {split}", REMEDY)
    lt_list = folder / LT_LIST
    if lt_list.exists():
        names = read_lt_list(lt_list)
        preparation.check_count(names, num_lt_images, f"images named in {lt_list}", REMEDY)
    else:
        logger.warning(f"{lt_list} not found: coco_stuff_lt_train cannot be used. {REMEDY}")
    for split in num_images:
        preparation.convert_missing(
            lambda source, target: preparation.write_label(
                preparation.relabel(source, _NEW_ID), target
            ),
            {folder / LABELS / f"{split}2017" / path.name: path for path in maps[split]},
            desc=f"coco_stuff_{split}",
            threads=threads,
            quiet=quiet,
        )


if __name__ == "__main__":
    sys.exit(main())
