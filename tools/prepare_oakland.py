#!/usr/bin/env python
"""Write the point clouds of Oakland with 34 classes, for DATASETS.FOLDER.

The program needs the 17 tiles with 44 labels of the Oakland 3-D Point Cloud Dataset, from
cs.cmu.edu/~vmr/datasets/oakland_3d/cvpr09, in oakland/:

  oakland_part{2,3}_TILE.xyz_label_conf   x, y, z, label and confidence of a point per line; or
  oakland_part{2,3}_TILE.npz              the arrays xyz (N, 3) and label (N,)

It writes into oakland/:

  classes.txt                             the 34 class names, from frequent to rare
  clouds/{train,val}/partN_TILE.npz       11 and 6 clouds: xyz, and label with ids 0 to 33; all
                                          other points are 255, which is ignored

The split is our own, because no official one has all tiles. It shows as many labels as possible in
both parts; the other labels have no class. A second run only writes missing files.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from sar import cli

EXAMPLE = "python tools/prepare_oakland.py --folder ~/data/oakland"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.download_parser(__doc__, EXAMPLE, "oakland", output=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import numpy as np

from sar.data import preparation
from sar.data.clouds import read_cloud, read_cloud_label
from sar.data.clouds.rows import parse_rows
from sar.data.clouds.values import as_label
from sar.errors import InputError

REMEDY = "`python tools/prepare_oakland.py --help` lists the needed files and their sources."
# The name of each official label that both splits show.
CLASSES = {
    1203: "paved_road", 1300: "foliage", 1400: "facade", 1200: "load_bearing", 1501: "vehicle",
    1401: "wall", 1206: "walkway", 1306: "shrub", 1301: "grass", 1103: "utility_pole",
    1111: "sign", 1101: "wire_bundle", 1303: "large_trunk", 1102: "isolated_wire",
    1411: "facade_ledge", 1202: "ground", 1110: "post", 1408: "fence", 1302: "small_trunk",
    1410: "ceiling", 1116: "traffic_lights_support", 1402: "stairs", 1115: "traffic_lights",
    1500: "human", 1107: "lamp_support", 1104: "crossarm", 1114: "lamp", 1305: "thick_branch",
    1113: "bench", 1119: "parking_meter", 1413: "mailbox", 1109: "fire_hydrant",
    1105: "support_wire", 1118: "crosswalk_light",
}  # fmt: skip
IGNORED = (
    1000, 1001, 1002, 1003, 1004, 1005, 9999,  # without a class
    1108, 1112, 1117, 1205, 1409, 1412,  # transformer, pylon, garbage, curb, gate, column
)  # fmt: skip
TILES = {
    "train": (
        "part2_ac", "part2_ae", "part2_ah", "part2_ak", "part2_al", "part2_ao", "part3_aj",
        "part3_ak", "part3_al", "part3_ao", "part3_ap",
    ),
    "val": ("part2_ad", "part2_ag", "part2_ai", "part2_aj", "part3_am", "part3_an"),
}  # fmt: skip
_NEW_ID = {label: i for i, label in enumerate(CLASSES)} | dict.fromkeys(IGNORED, 255)
_SUFFIXES = (".xyz_label_conf", ".npz")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    return preparation.run(partial(prepare_oakland, output=args.output), args)


def prepare_oakland(
    folder: Path,
    threads: int,
    output: Path | None = None,
    tiles: Mapping[str, Sequence[str]] = TILES,
    *,
    quiet: bool = False,
) -> None:
    """Write the clouds. Raise InputError if tiles are missing."""
    output = output or folder
    sources = {split: [find_tile(folder, name) for name in tiles[split]] for split in tiles}
    for split in tiles:
        preparation.check_there(sources[split], f"tiles of the split {split}", REMEDY)
    preparation.write_classes(output, CLASSES.values())
    for split, names in tiles.items():
        targets = [output / "clouds" / split / f"{name}.npz" for name in names]
        preparation.convert_missing(
            convert,
            dict(zip(targets, sources[split], strict=True)),
            desc=f"Oakland {split}",
            threads=threads,
            quiet=quiet,
        )


def find_tile(folder: Path, name: str) -> Path:
    """Return the file of a tile. Return the name of the download if there is none."""
    paths = [folder / f"oakland_{name}{suffix}" for suffix in _SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[0])


def convert(source: Path, target: Path) -> None:
    """Write the cloud of a tile."""
    xyz, ids = read_tile(source)
    label = preparation.replace_ids(ids, _NEW_ID, source, "points")
    preparation.write_cloud(target, xyz=xyz, label=label)


def read_tile(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates, (N, 3) float32 in metres, and the official labels, (N,) int64.

    Raises:
        InputError: the file cannot be read, or its numbers are wrong.
    """
    if path.suffix == ".npz":
        xyz, ids = read_cloud(path).xyz, read_cloud_label(path)
    else:
        values = parse_rows(path, 5, path, first_line=1)
        xyz, ids = values[:, :3], as_label(values[:, 3], path)
    xyz = xyz.astype(np.float32)
    if not np.isfinite(xyz).all() or ids.min() < 0 or ids.max() > 65535:
        raise InputError(
            f"{path} has a coordinate that is not finite, or a label outside of 0 to 65535. "
            f"{REMEDY}"
        )
    return xyz, ids


if __name__ == "__main__":
    sys.exit(main())
