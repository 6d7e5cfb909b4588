#!/usr/bin/env python
"""Write the point clouds of ScanNet200 or ScanNet20, for DATASETS.FOLDER.

The program needs these files, as downloaded with the script of www.scan-net.org, in scannet/:

  scans/SCENE/SCENE_vh_clean_2.ply                        1,513 meshes for train and val
  scans/SCENE/SCENE_vh_clean_2.0.010000.segs.json
  scans/SCENE/SCENE.aggregation.json
  scans_test/SCENE/SCENE_vh_clean_2.ply                   100 meshes for test; may be missing
  scannetv2-labels.combined.tsv                           the list of the categories

It writes into scannet/scannet200/ (or scannet20/):

  classes.txt                          the class names, in the order of their official ids
  groups.json                          ScanNet200's groups of classes: head, common and tail
  clouds/{train,val,test}/SCENE.npz    1,201, 312 and 100 clouds: xyz, color, normal, label

The points are the vertices of the mesh, in the order of the mesh. xyz is in metres, as in the
download: the axes of a room are not aligned, because the test scenes have no alignment. Normals are
the means of the normals of the adjacent faces, weighted by area. Labels are the ids 0 to 199 (or 0
to 19); all other points are 255, which is ignored. Test clouds have no label. Each data set takes
about 7 GB. A second run only writes missing files.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from sar import cli

EXAMPLE = "python tools/prepare_scannet.py --folder ~/data/scannet --classes 200"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.download_parser(__doc__, EXAMPLE, "scannet", output=True)
    parser.add_argument(
        "--classes",
        type=int,
        choices=(20, 200),
        default=200,
        help="write ScanNet20 or ScanNet200 (default: %(default)s)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import csv
import json
import logging
import re

import numpy as np

from sar.data import preparation
from sar.data.datasets.scannet import CLASSES_20, CLASSES_200, GROUPS, scenes
from sar.errors import InputError, listed

logger = logging.getLogger("prepare_scannet")
REMEDY = "`python tools/prepare_scannet.py --help` lists the needed files and their sources."
# The official ids with their names, and the column of the list of categories with these ids.
_TASKS = {20: (CLASSES_20, "nyu40id"), 200: (CLASSES_200, "id")}
_IGNORE = 255
_MESH, _SEGMENTS, _GROUPS = (
    "_vh_clean_2.ply",
    "_vh_clean_2.0.010000.segs.json",
    ".aggregation.json",
)
_HEADER = re.compile(
    rb"ply\r?\nformat binary_little_endian 1\.0\r?\n(?:comment.*\n)*element vertex (\d+)\r?\n"
    rb"property float x\r?\nproperty float y\r?\nproperty float z\r?\nproperty uchar red\r?\n"
    rb"property uchar green\r?\nproperty uchar blue\r?\nproperty uchar alpha\r?\n"
    rb"element face (\d+)\r?\nproperty list uchar u?int \w+\r?\nend_header\r?\n"
)
_VERTEX = np.dtype([("xyz", "<f4", 3), ("color", "u1", 3), ("alpha", "u1")])
_FACE = np.dtype([("corners", "u1"), ("vertices", "<u4", 3)])
_JSON_ERRORS = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    return preparation.run(
        partial(prepare_scannet, num_classes=args.classes, output=args.output), args
    )


def prepare_scannet(
    folder: Path,
    threads: int,
    num_classes: int = 200,
    output: Path | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    *,
    quiet: bool = False,
) -> None:
    """Write the clouds of one task.

    Args:
        num_classes: 200 or 20.
        splits: the scenes of train, val and test; the official ones by default.

    Raises:
        InputError: files are missing, or the list of the categories cannot be read.
    """
    output = (output or folder) / f"scannet{num_classes}"
    splits = dict(splits or scenes())
    if not (folder / "scans_test").exists():
        logger.warning(f"{folder / 'scans_test'} is not there: the test scenes are left out.")
        splits.pop("test", None)
    scans = {
        split: [folder / ("scans_test" if split == "test" else "scans") / name for name in names]
        for split, names in splits.items()
    }
    for split, of_split in scans.items():
        suffixes = (_MESH,) if split == "test" else (_MESH, _SEGMENTS, _GROUPS)
        files = [_file(scan, suffix) for scan in of_split for suffix in suffixes]
        preparation.check_there(files, f"files of the split {split}", REMEDY)
    class_of_category = read_categories(folder / "scannetv2-labels.combined.tsv", num_classes)
    preparation.write_classes(output, _TASKS[num_classes][0].values())
    if num_classes == 200:
        preparation.write_groups(output, {name: ids.values() for name, ids in GROUPS.items()})
    for split, of_split in scans.items():
        preparation.convert_missing(
            partial(convert, class_of_category=None if split == "test" else class_of_category),
            {output / "clouds" / split / f"{scan.name}.npz": scan for scan in of_split},
            desc=f"ScanNet{num_classes} {split}",
            threads=threads,
            quiet=quiet,
        )


def read_categories(path: Path, num_classes: int) -> dict[str, int]:
    """Return the class id of each raw category; 255 for the categories without a class.

    If several rows have the same raw category, the first one counts.

    Raises:
        InputError: the file cannot be read, or does not have all classes.
    """
    classes, column = _TASKS[num_classes]
    position = {official: i for i, official in enumerate(classes)}
    result: dict[str, int] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                result.setdefault(row["raw_category"], position.get(int(row[column]), _IGNORE))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error!r}). {REMEDY}") from error
    found = set(result.values())
    missing = [name for i, name in enumerate(classes.values()) if i not in found]
    if missing:
        raise InputError(
            f"{path} has no category for {len(missing)} of {num_classes} classes: "
            f"{listed(missing)}. Download its latest version. {REMEDY}"
        )
    return result


def convert(scan: Path, target: Path, class_of_category: Mapping[str, int] | None) -> None:
    """Write the cloud of a scene, without label if `class_of_category` is None."""
    mesh, segments, groups = (_file(scan, suffix) for suffix in (_MESH, _SEGMENTS, _GROUPS))
    arrays = read_mesh(mesh)
    if class_of_category is not None:
        arrays["label"] = read_label(segments, groups, class_of_category)
        if len(arrays["label"]) != len(arrays["xyz"]):
            raise InputError(
                f"{segments} has {len(arrays['label'])} vertices, but {mesh} has "
                f"{len(arrays['xyz'])}. {REMEDY}"
            )
    preparation.write_cloud(target, **arrays)


def read_mesh(path: Path) -> dict[str, np.ndarray]:
    """Read a mesh of ScanNet.

    Returns:
        xyz (N, 3) float32 in metres, color (N, 3) uint8, normal (N, 3) float32: unit vectors, or
        zero for a vertex without a face.

    Raises:
        InputError: the file has another header, another size, no vertices, or wrong numbers.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}). {REMEDY}") from error
    header = _HEADER.match(data)
    if not header:
        raise InputError(f"{path} does not begin like a mesh of ScanNet. {REMEDY}")
    num_vertices, num_faces = map(int, header.groups())
    begin_faces = header.end() + num_vertices * _VERTEX.itemsize
    expected = begin_faces + num_faces * _FACE.itemsize
    if len(data) != expected or num_vertices == 0:
        raise InputError(
            f"{path} has {len(data)} bytes; {num_vertices} vertices and {num_faces} triangles "
            f"need {expected}. {REMEDY}"
        )
    vertices = np.frombuffer(data, _VERTEX, num_vertices, header.end())
    faces = np.frombuffer(data, _FACE, num_faces, begin_faces)
    corners = faces["vertices"].astype(np.int64)
    if (faces["corners"] != 3).any() or (corners >= num_vertices).any():
        raise InputError(f"{path} has a face that is not a triangle of its vertices. {REMEDY}")
    if not np.isfinite(vertices["xyz"]).all():
        raise InputError(f"{path} has a vertex without finite coordinates. {REMEDY}")
    normal = vertex_normals(vertices["xyz"].astype(np.float64), corners)
    return {"xyz": vertices["xyz"], "color": vertices["color"], "normal": normal}


def vertex_normals(xyz: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the mean normal of the faces around each vertex, weighted by area.

    Args:
        xyz: (N, 3) float64.
        faces: (M, 3), the vertices of each triangle.

    Returns:
        (N, 3) float32: unit vectors, or zero for a vertex without an area around it.
    """
    first, second, third = (xyz[faces[:, i]] for i in range(3))
    # The length of the cross product is twice the area.
    of_corner = np.cross(second - first, third - first).repeat(3, axis=0)
    total = np.stack(
        [np.bincount(faces.ravel(), of_corner[:, axis], len(xyz)) for axis in range(3)], axis=1
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.divide(total, length, out=total, where=length > 0).astype(np.float32)


def read_label(segments: Path, groups: Path, class_of_category: Mapping[str, int]) -> np.ndarray:
    """Return the class of each vertex, (N,) uint8.

    A vertex belongs to a segment, and a group of segments has a category. If a segment is in
    several groups, the last one counts.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        of_vertex = np.ravel(np.asarray(_read_json(segments)["segIndices"], np.int64))
    except _JSON_ERRORS as error:
        raise InputError(f"{segments} cannot be read ({error!r}). {REMEDY}") from error
    ids, of_vertex = np.unique(of_vertex, return_inverse=True)
    of_segment = np.full(len(ids), _IGNORE, np.uint8)
    try:
        for group in _read_json(groups)["segGroups"]:
            inside = np.isin(ids, np.asarray(group["segments"], np.int64))
            of_segment[inside] = class_of_category.get(group["label"], _IGNORE)
    except _JSON_ERRORS as error:
        raise InputError(f"{groups} cannot be read ({error!r}). {REMEDY}") from error
    return of_segment[of_vertex]


def _file(scan: Path, suffix: str) -> Path:
    return scan / f"{scan.name}{suffix}"


def _read_json(path: Path) -> dict:
    return json.loads(path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
