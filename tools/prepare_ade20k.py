#!/usr/bin/env python
"""Write the labels of ADE20K with 150 classes: ade20k_sem_seg_{train,val}.

The program needs these folders of ADEChallengeData2016.zip, from sceneparsing.csail.mit.edu, in
ADEChallengeData2016/: images/ and annotations/{training,validation}/.

It writes annotations_detectron2/{training,validation}/NAME.png, with ids 0 to 149. The id 0 of the
download becomes 255, which is ignored. A second run only writes missing files.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from sar import cli

EXAMPLE = "python tools/prepare_ade20k.py --folder ~/data/ADEChallengeData2016"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.download_parser(__doc__, EXAMPLE, "ADEChallengeData2016")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

from sar.data import preparation

REMEDY = "`python tools/prepare_ade20k.py --help` lists the needed files and their sources."
NUM_IMAGES = {"training": 20210, "validation": 2000}
_NEW_ID = {0: 255} | {i + 1: i for i in range(150)}


def main(argv: list[str] | None = None) -> int:
    return preparation.run(prepare_ade20k, parse_args(argv))


def prepare_ade20k(
    folder: Path, threads: int, num_images: Mapping[str, int] = NUM_IMAGES, *, quiet: bool = False
) -> None:
    """Write the labels. Raise InputError if files are missing or there are too many."""
    sources = {}
    for split, expected in num_images.items():
        images = preparation.list_files(folder / "images" / split, "*.jpg", REMEDY)
        preparation.check_count(images, expected, f"images in {folder / 'images' / split}", REMEDY)
        sources[split] = [folder / "annotations" / split / f"{path.stem}.png" for path in images]
        preparation.check_there(sources[split], f"labels of the split {split}", REMEDY)
    for split in num_images:
        preparation.convert_missing(
            lambda source, target: preparation.write_label(
                preparation.relabel(source, _NEW_ID), target
            ),
            {folder / "annotations_detectron2" / split / p.name: p for p in sources[split]},
            desc=f"ADE20K {split}",
            threads=threads,
            quiet=quiet,
        )


if __name__ == "__main__":
    sys.exit(main())
