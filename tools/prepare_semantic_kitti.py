#!/usr/bin/env python
"""Link the scans of SemanticKITTI, and write their labels with 19 classes.

The program needs these folders in semantic_kitti/dataset/sequences/SEQUENCE/:

  velodyne/   of data_odometry_velodyne.zip, cvlibs.net/datasets/kitti/eval_odometry.php
  labels/     of data_odometry_labels.zip, semantic-kitti.org; not for the sequences 11 to 21

It writes into semantic_kitti/, which DATASETS.FOLDER can then name:

  classes.txt                                the 19 class names
  clouds/{train,val,test}/SEQUENCE_SCAN.bin  links to the scans, which are 80 GB
  clouds/{train,val}/SEQUENCE_SCAN.label     32 bits, ids 0 to 18; all other points are 255, which
                                             is ignored; 11 GB

Sequence 8 is val. The test scans (11 to 21) may be missing. A second run only writes missing files.
"""

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sar import cli

EXAMPLE = "python tools/prepare_semantic_kitti.py --folder ~/data/semantic_kitti"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.download_parser(__doc__, EXAMPLE, "semantic_kitti", output=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import logging

from sar.data import preparation
from sar.data.clouds import read_cloud_label
from sar.data.datasets.semantic_kitti import CLASSES, IGNORED, MERGED, NUM_SCANS
from sar.errors import InputError
from sar.files.atomic import write_atomically

logger = logging.getLogger("prepare_semantic_kitti")
REMEDY = "`python tools/prepare_semantic_kitti.py --help` lists the needed files and their sources."
_IGNORE = 255
_NEW_ID = {official: i for i, official in enumerate(CLASSES)}
_NEW_ID |= {official: _NEW_ID[kept] for official, kept in MERGED.items()}
_NEW_ID |= dict.fromkeys(IGNORED, _IGNORE)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    return preparation.run(partial(prepare_semantic_kitti, output=args.output), args)


def prepare_semantic_kitti(
    folder: Path,
    threads: int,
    output: Path | None = None,
    num_scans: Mapping[str, Mapping[int, int]] = NUM_SCANS,
    *,
    quiet: bool = False,
) -> None:
    """Write links and labels.

    Raises:
        InputError: files are missing, or a sequence has another number of scans.
    """
    output = output or folder
    sources: dict[str, dict[Path, Path]] = {}
    for split, sequences in num_scans.items():
        folders = {i: folder / "dataset" / "sequences" / f"{i:02d}" for i in sequences}
        if split == "test" and not any(path.exists() for path in folders.values()):
            logger.warning(f"The test scans are not in {folder}, and are left out.")
            continue
        sources[split] = {}
        for i, expected in sequences.items():
            scans = preparation.list_files(folders[i] / "velodyne", "*.bin", REMEDY)
            preparation.check_count(scans, expected, f"scans in {folders[i] / 'velodyne'}", REMEDY)
            labels = [folders[i] / "labels" / f"{scan.stem}.label" for scan in scans]
            if split == "test":
                labels = []
            preparation.check_there(labels, f"labels of sequence {i:02d}", REMEDY)
            for file in (*scans, *labels):
                sources[split][output / "clouds" / split / f"{i:02d}_{file.name}"] = file
    preparation.write_classes(output, CLASSES.values())
    for split, files in sources.items():
        preparation.convert_missing(
            convert, files, desc=f"SemanticKITTI {split}", threads=threads, quiet=quiet
        )


def convert(source: Path, target: Path) -> None:
    """Link a scan, or write a label of SemanticKITTI with our ids."""
    if source.suffix == ".bin":
        preparation.link(source, target)
        return
    scan = source.parents[1] / "velodyne" / f"{source.stem}.bin"
    ids = read_cloud_label(source)
    if scan.stat().st_size != 16 * len(ids):  # a point has four numbers of 32 bits
        raise InputError(
            f"{source} has {len(ids)} labels, but {scan} has {scan.stat().st_size / 16:g} points. "
            f"{REMEDY}"
        )
    new_ids = preparation.replace_ids(ids, _NEW_ID, source, "points")
    write_atomically(target, new_ids.astype("<u4").tobytes())


if __name__ == "__main__":
    sys.exit(main())
