"""Miniature copies of the official layouts of the point clouds, and how to prepare them."""

import json
import struct
from pathlib import Path

import numpy as np

from sar.data.datasets import scannet
from sar.data.datasets.class_file import read_class_file

from .programs import load_program

TOOLS = Path(__file__).parent.parent / "tools"
SCENES = {
    "train": ["scene0000_00", "scene0000_01", "scene0001_00"],
    "val": ["scene0011_00"],
    "test": ["scene0707_00"],
}
ROOMS = {1: ["hall_1", "hall_2"], 5: ["office_1"], 6: ["copy_1"]}
SCANS = {"train": {0: 3, 9: 1}, "val": {8: 2}, "test": {11: 1}}
# The official learning_map, with 255 for 0 and one less for all others.
LEARNING_MAP = {
    0: 255, 1: 255, 10: 0, 11: 1, 13: 4, 15: 2, 16: 4, 18: 3, 20: 4, 30: 5, 31: 6, 32: 7, 40: 8,
    44: 9, 48: 10, 49: 11, 50: 12, 51: 13, 52: 255, 60: 8, 70: 14, 71: 15, 72: 16, 80: 17, 81: 18,
    99: 255, 252: 0, 253: 6, 254: 5, 255: 7, 256: 4, 257: 4, 258: 3, 259: 4,
}  # fmt: skip
TILES = {"train": ("part2_ac", "part3_aj"), "val": ("part2_ad",)}


def load_tool(name):
    return load_program(TOOLS / f"prepare_{name}.py")


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def snapshot(folder):
    return {p: (p.lstat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def read(path):
    with np.load(path) as arrays:
        return dict(arrays)


def class_names(folder):
    return [name for name, _ in read_class_file(folder / "classes.txt")]


def write_mesh(path, vertices, faces):
    """The mesh of ScanNet: vertices (x, y, z, red, green, blue), faces of three vertices."""
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment MLIB generated\n"
        f"element vertex {len(vertices)}\n"
        + "".join(f"property float {axis}\n" for axis in "xyz")
        + "".join(f"property uchar {color}\n" for color in ("red", "green", "blue", "alpha"))
        + f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    body = b"".join(struct.pack("<3f4B", *vertex, 255) for vertex in vertices)
    body += b"".join(struct.pack("<B3i", 3, *face) for face in faces)
    write(path, header.encode() + body)


def random_mesh(rng, number=30):
    points = rng.normal(scale=3, size=(number, 3)).astype(np.float32).tolist()
    colors = rng.integers(0, 256, (number, 3)).tolist()
    faces = [rng.choice(number - 1, 3, replace=False).tolist() for _ in range(2 * number)]
    return [point + color for point, color in zip(points, colors, strict=True)], faces


# One category with two rows: the first one counts.
CATEGORIES = [
    *((name, official, 40) for official, name in scannet.CLASSES_200.items()),
    *((f"nyu {name}", 4000 + official, official) for official, name in scannet.CLASSES_20.items()),
    ("object", 1, 1),
    ("chair", 3, 2),
    ("mug", 276 + 1000, 40),
]


def write_scannet(folder):
    rng = np.random.default_rng(0)
    rows = [f"{official}\t{name}\t{name}\t1\t{nyu}\t12" for name, official, nyu in CATEGORIES]
    header = "id\traw_category\tcategory\tcount\tnyu40id\teigen13id"
    write(folder / "scannetv2-labels.combined.tsv", "\n".join([header, *rows]))
    names = ["wall", "chair", "object", "luggage", "mug", "not a category"]
    names += ["nyu wall", "nyu otherfurniture", "nyu bed"]
    for split, scenes in SCENES.items():
        for name in scenes:
            scan = folder / ("scans_test" if split == "test" else "scans") / name
            vertices, faces = random_mesh(rng)
            write_mesh(scan / f"{name}_vh_clean_2.ply", vertices, faces)
            if split == "test":
                continue
            segments = rng.choice([0, 3, 7, 8, 21, 400, 401], len(vertices)).tolist()
            write(
                scan / f"{name}_vh_clean_2.0.010000.segs.json",
                json.dumps({"sceneId": name, "segIndices": segments}),
            )
            groups = [
                # Some segments are in several groups, some in none, some are not in the mesh.
                {"id": i, "label": label, "segments": rng.choice([0, 3, 7, 8, 21, 99], 2).tolist()}
                for i, label in enumerate(rng.permutation(names).tolist())
            ]
            write(scan / f"{name}.aggregation.json", json.dumps({"segGroups": groups}))


def write_s3dis(folder):
    rng = np.random.default_rng(1)
    for area, rooms in ROOMS.items():
        for room in rooms:
            for name in ("ceiling_1", "chair_1", "chair_2", "stairs_1"):
                rows = [
                    " ".join(f"{x:.3f}" for x in rng.normal(size=3) * 9)
                    + "".join(f" {color}" for color in rng.integers(0, 256, 3))
                    for _ in range(5)
                ]
                path = folder / f"Area_{area}" / room / "Annotations" / f"{name}.txt"
                write(path, "\n".join(rows) + "\n")
            write(folder / f"Area_{area}" / room / f"{room}.txt", "0 0 0 0 0 0\n")
            write(folder / f"Area_{area}" / room / "Annotations" / ".DS_Store", "x")
        write(folder / f"Area_{area}" / f"Area_{area}_alignmentAngle.txt", "room 0\n")


def write_kitti(folder):
    rng = np.random.default_rng(2)
    for split, sequences in SCANS.items():
        for sequence, number in sequences.items():
            for i in range(number):
                path = folder / "dataset" / "sequences" / f"{sequence:02d}"
                points = rng.normal(size=(40, 4)).astype("<f4")
                write(path / "velodyne" / f"{i:06d}.bin", points.tobytes())
                if split != "test":
                    ids = np.resize(rng.permutation(list(LEARNING_MAP)), 40)
                    objects = rng.integers(0, 2**16, 40)
                    label = (objects << 16 | ids).astype("<u4")
                    write(path / "labels" / f"{i:06d}.label", label.tobytes())


def write_oakland(folder):
    tool, rng = load_tool("oakland"), np.random.default_rng(3)
    labels = [*tool.CLASSES, *tool.IGNORED]
    for index, name in enumerate(sum(TILES.values(), ())):
        xyz, label = rng.normal(size=(60, 3)).astype(np.float32), rng.choice(labels, 60)
        folder.mkdir(exist_ok=True)
        if index == 0:
            arrays = {"xyz": xyz, "label": label.astype(np.uint16)}
            np.savez(folder / f"oakland_{name}.npz", **arrays)
        else:
            lines = [f"{x} {y} {z} {i} 0" for (x, y, z), i in zip(xyz, label, strict=True)]
            write(folder / f"oakland_{name}.xyz_label_conf", "\n".join(lines))


LAYOUTS = {
    "oakland": ("oakland", write_oakland),
    "s3dis": ("Stanford3dDataset_v1.2", write_s3dis),
    "scannet": ("scannet", write_scannet),
    "semantic_kitti": ("semantic_kitti", write_kitti),
}


def download(name, root):
    """The folder of a miniature download, and a function that prepares it."""
    folder_name, write_layout = LAYOUTS[name]
    write_layout(root / folder_name)
    sizes = {
        "oakland": {"tiles": TILES},
        "s3dis": {"num_rooms": {area: len(rooms) for area, rooms in ROOMS.items()}},
        "scannet": {"splits": SCENES},
        "semantic_kitti": {"num_scans": SCANS},
    }[name]
    prepare = getattr(load_tool(name), f"prepare_{name}")

    def run(**options):
        prepare(root / folder_name, 2, **(sizes | {"quiet": True} | options))

    return root / folder_name, run
