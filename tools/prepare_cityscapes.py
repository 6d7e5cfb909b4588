#!/usr/bin/env python
"""Write the labels of Cityscapes with 19 classes: cityscapes_fine_sem_seg_{train,val}.

The program needs these folders, as downloaded from cityscapes-dataset.com, in cityscapes/:

  leftImg8bit/{train,val}/    of leftImg8bit_trainvaltest.zip
  gtFine/{train,val}/         of gtFine_trainvaltest.zip

Next to each *_gtFine_labelIds.png it writes *_gtFine_labelTrainIds.png, with ids 0 to 18. All other
pixels are 255, which is ignored. A second run only writes missing files.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from sar import cli

EXAMPLE = "python tools/prepare_cityscapes.py --folder ~/data/cityscapes"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.download_parser(__doc__, EXAMPLE, "cityscapes")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

from sar.data import preparation

from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

REMEDY = "`python tools/prepare_cityscapes.py --help` lists the needed files and their sources."
NUM_IMAGES = {"train": 2975, "val": 500}
_NEW_ID = dict.fromkeys(range(34), 255) | {c["id"]: c["trainId"] for c in CITYSCAPES_CATEGORIES}


def main(argv: list[str] | None = None) -> int:
    return preparation.run(prepare_cityscapes, parse_args(argv))


def prepare_cityscapes(
    folder: Path, threads: int, num_images: Mapping[str, int] = NUM_IMAGES, *, quiet: bool = False
) -> None:
    """Write the labels. Raise InputError if files are missing or there are too many."""
    sources = {}
    for split, expected in num_images.items():
        image_folder, label_folder = folder / "leftImg8bit" / split, folder / "gtFine" / split
        images = preparation.list_files(image_folder, "*/*_leftImg8bit.png", REMEDY)
        preparation.check_count(images, expected, f"images in {image_folder}", REMEDY)
        sources[split] = [
            label_folder
            / image.parent.name
            / image.name.replace("_leftImg8bit", "_gtFine_labelIds")
            for image in images
        ]
        preparation.check_there(sources[split], f"labels of the split {split}", REMEDY)
    for split in num_images:
        preparation.convert_missing(
            lambda source, target: preparation.write_label(
                preparation.relabel(source, _NEW_ID), target
            ),
            {path.with_name(path.name.replace("Ids", "TrainIds")): path for path in sources[split]},
            desc=f"cityscapes_fine_sem_seg_{split}",
            threads=threads,
            quiet=quiet,
        )


if __name__ == "__main__":
    sys.exit(main())
