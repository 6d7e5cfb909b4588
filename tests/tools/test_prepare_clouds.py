"""The programs tools/prepare_*.py of point clouds, on miniature copies of the official layouts."""

import hashlib
import json
import re
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sar.data.datasets import scannet, semantic_kitti
from sar.data.datasets.class_file import read_class_file
from sar.errors import InputError

from ..programs import load_program

TOOLS = Path(__file__).parents[2] / "tools"
NAMES = ("oakland", "s3dis", "scannet", "semantic_kitti")
SCENES = {
    "train": ["scene0000_00", "scene0000_01", "scene0001_00"],
    "val": ["scene0011_00"],
    "test": ["scene0707_00"],
}
ROOMS = {1: ["hall_1", "hall_2"], 5: ["office_1"], 6: ["copy_1"]}
SCANS = {"train": {0: 3, 9: 1}, "val": {8: 2}, "test": {11: 1}}
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


# ---- miniatures -----------------------------------------------------------------------------


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


# The official learning_map, with 255 for 0 and one less for all others.
LEARNING_MAP = {
    0: 255, 1: 255, 10: 0, 11: 1, 13: 4, 15: 2, 16: 4, 18: 3, 20: 4, 30: 5, 31: 6, 32: 7, 40: 8,
    44: 9, 48: 10, 49: 11, 50: 12, 51: 13, 52: 255, 60: 8, 70: 14, 71: 15, 72: 16, 80: 17, 81: 18,
    99: 255, 252: 0, 253: 6, 254: 5, 255: 7, 256: 4, 257: 4, 258: 3, 259: 4,
}  # fmt: skip
LAYOUTS = {
    "oakland": ("oakland", write_oakland),
    "s3dis": ("Stanford3dDataset_v1.2", write_s3dis),
    "scannet": ("scannet", write_scannet),
    "semantic_kitti": ("semantic_kitti", write_kitti),
}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def prepared(name, root):
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


# ---- ScanNet --------------------------------------------------------------------------------


def sha256(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_scannet_has_the_official_lists():
    """The checksums were computed from the official files, with sorted lines."""
    scenes = scannet.scenes()
    assert {split: len(names) for split, names in scenes.items()} == {
        "train": 1201, "val": 312, "test": 100,
    }  # fmt: skip
    assert {split: sha256(sorted(names))[:16] for split, names in scenes.items()} == {
        "train": "995d9cda4cb994ae", "val": "c04425d97dcea788", "test": "9e13281c1cb8104e",
    }  # fmt: skip
    groups = (scannet.HEAD, scannet.COMMON, scannet.TAIL)
    assert [len(group) for group in groups] == [66, 68, 66]
    assert [sha256(sorted(group.values()))[:16] for group in groups] == [
        "ad4f4662dd7a227f",
        "935107b0e75b0d51",
        "8cd92338ab4fdbd8",
    ]
    lines = [
        [f"{i} {name}" for i, name in c.items()] for c in (scannet.CLASSES_20, scannet.CLASSES_200)
    ]
    assert [sha256(of_task)[:16] for of_task in lines] == ["2faca75b4c213574", "4e4c8c0092cadf8f"]


def expected_label(scan, num_classes):
    """The class of each vertex, by loops over the official files."""
    column = {20: 2, 200: 1}[num_classes]
    ids = list({20: scannet.CLASSES_20, 200: scannet.CLASSES_200}[num_classes])
    segments = json.loads((scan / f"{scan.name}_vh_clean_2.0.010000.segs.json").read_text())
    groups = json.loads((scan / f"{scan.name}.aggregation.json").read_text())["segGroups"]
    label = [255] * len(segments["segIndices"])
    for group in groups:
        official = next((row[column] for row in CATEGORIES if row[0] == group["label"]), None)
        for vertex, segment in enumerate(segments["segIndices"]):
            if segment in group["segments"]:
                label[vertex] = ids.index(official) if official in ids else 255
    return label


def expected_normals(vertices, faces):
    total = [np.zeros(3) for _ in vertices]
    for face in faces:
        a, b, c = (np.array(vertices[i][:3], np.float64) for i in face)
        for i in face:
            total[i] += np.cross(b - a, c - a) / 2
    return [v / np.linalg.norm(v) if v.any() else v for v in total]


@pytest.mark.parametrize("num_classes", [20, 200])
def test_scannet(root, num_classes):
    folder, run = prepared("scannet", root)
    run(num_classes=num_classes)
    output = folder / f"scannet{num_classes}"
    assert {p.name for p in folder.iterdir()} == {
        "scans", "scans_test", "scannetv2-labels.combined.tsv", output.name,
    }  # fmt: skip
    classes = {20: scannet.CLASSES_20, 200: scannet.CLASSES_200}[num_classes]
    assert class_names(output) == list(classes.values())
    rng, shown = np.random.default_rng(0), Counter()
    for split, names in SCENES.items():
        files = sorted((output / "clouds" / split).iterdir())
        assert [path.stem for path in files] == names
        for path in files:
            cloud = read(path)
            if split == "test":
                assert cloud.keys() == {"xyz", "color", "normal"}
                continue
            label = expected_label(folder / "scans" / path.stem, num_classes)
            assert cloud["label"].dtype == np.uint8 and cloud["label"].tolist() == label
            shown.update(label)
    assert len(shown) >= 3 and shown[255]
    # The first mesh of the file is the first one that the generator gives.
    vertices, faces = random_mesh(rng)
    cloud = read(output / "clouds" / "train" / "scene0000_00.npz")
    assert {key: array.dtype for key, array in cloud.items()} == {
        "xyz": np.float32, "color": np.uint8, "normal": np.float32, "label": np.uint8,
    }  # fmt: skip
    np.testing.assert_array_equal(np.hstack([cloud["xyz"], cloud["color"]]), vertices)
    np.testing.assert_allclose(cloud["normal"], expected_normals(vertices, faces), atol=1e-6)
    assert not cloud["normal"][-1].any()  # no face


def test_scannet_without_test_scenes(root, caplog):
    folder, run = prepared("scannet", root)
    (folder / "scans_test").rename(folder / "elsewhere")
    run()
    assert "the test scenes are left out" in caplog.text
    assert {p.name for p in (folder / "scannet200" / "clouds").iterdir()} == {"train", "val"}


def test_scannet_with_an_incomplete_list_of_categories(root):
    folder, run = prepared("scannet", root)
    path = folder / "scannetv2-labels.combined.tsv"
    lines = path.read_text().split("\n")
    path.write_text("\n".join(line for line in lines if "\tluggage\t" not in line))
    with pytest.raises(InputError, match=r"no category for 1 of 200 classes: luggage\. Download"):
        run()
    for text in ("", "id\traw_category\n1\twall", "id\traw_category\nx\twall", b"\xff\xfe"):
        write(path, text)
        with pytest.raises(InputError, match=f"{path} (cannot be read|has no category)"):
            run()
    assert not (folder / "scannet200").exists()


def damage_mesh(kind):
    def damage(data):
        head, _, body = data.partition(b"end_header\n")
        number = int(re.search(rb"vertex (\d+)", head)[1])
        if kind == "ascii":
            return data.replace(b"binary_little_endian", b"ascii")
        if kind == "truncated":
            return data[:-1]
        if kind == "lying header":
            return data.replace(b"element vertex 30", b"element vertex 3000000000000")
        if kind == "not finite":
            return head + b"end_header\n" + struct.pack("<f", float("nan")) + body[4:]
        corner = len(head) + len(b"end_header\n") + 16 * number + 1
        return data[:corner] + struct.pack("<i", 30 if kind == "high" else -1) + data[corner + 4 :]

    return damage


@pytest.mark.parametrize(
    "file, damage, expected",
    [
        ("_vh_clean_2.ply", damage_mesh("ascii"), "does not begin like a mesh of ScanNet"),
        ("_vh_clean_2.ply", damage_mesh("truncated"), r"ply has \d+ bytes; 30 vertices and 60"),
        ("_vh_clean_2.ply", damage_mesh("lying header"), "bytes; 3000000000000 vertices"),
        ("_vh_clean_2.ply", damage_mesh("high"), "a face that is not a triangle of its vertices"),
        ("_vh_clean_2.ply", damage_mesh("negative"), "a face that is not a triangle"),
        ("_vh_clean_2.ply", damage_mesh("not finite"), "a vertex without finite coordinates"),
        ("_vh_clean_2.ply", lambda _: b"", "does not begin like a mesh"),
        ("_vh_clean_2.0.010000.segs.json", lambda data: data[:40], "segs.json cannot be read"),
        (
            "_vh_clean_2.0.010000.segs.json",
            lambda _: b'{"segIndices": [1, 2]}',
            "has 2 vertices, but",
        ),
        ("_vh_clean_2.0.010000.segs.json", lambda _: b'{"segIndices": 5}', "has 1 vertices, but"),
        (".aggregation.json", lambda _: b'{"segGroups": [{"segments": [1]}]}', "cannot be read"),
        (".aggregation.json", lambda _: b'{"segGroups": [3]}', "aggregation.json cannot be read"),
        (".aggregation.json", lambda _: b"[]", "aggregation.json cannot be read"),
    ],
)
def test_scannet_with_a_damaged_file(root, file, damage, expected):
    folder, run = prepared("scannet", root)
    path = folder / "scans" / "scene0000_01" / f"scene0000_01{file}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"(?s)1 of 3 files could not.*{expected}.*--help"):
        run()
    # The others are complete, and nothing of the damaged one is left.
    names = sorted(p.name for p in (folder / "scannet200" / "clouds" / "train").iterdir())
    assert names == ["scene0000_00.npz", "scene0001_00.npz"]


# ---- S3DIS ----------------------------------------------------------------------------------


def test_s3dis(root):
    folder, run = prepared("s3dis", root)
    run()
    fold = folder / "test_area_5"
    tool = load_tool("s3dis")
    assert class_names(fold) == list(tool.CLASSES)
    clouds = {split: sorted((fold / "clouds" / split).iterdir()) for split in ("train", "val")}
    assert [path.stem for path in clouds["train"]] == [
        "Area_1_hall_1",
        "Area_1_hall_2",
        "Area_6_copy_1",
    ]
    assert [path.stem for path in clouds["val"]] == ["Area_5_office_1"]
    ids = {"ceiling": 0, "chair": 8, "stairs": 12}
    for path in sum(clouds.values(), []):
        _, area, room = path.stem.split("_", 2)
        rows, label = [], []
        for file in sorted((folder / f"Area_{area}" / room / "Annotations").glob("*.txt")):
            for line in file.read_text().splitlines():
                rows.append([float(word) for word in line.split()])
                label.append(ids[file.stem.split("_")[0]])
        cloud = read(path)
        assert cloud["label"].tolist() == label and len(label) == 20
        assert cloud["color"].dtype == np.uint8 and cloud["xyz"].dtype == np.float32
        np.testing.assert_allclose(np.hstack([cloud["xyz"], cloud["color"]]), rows, atol=1e-6)


def test_s3dis_writes_each_room_once_for_all_folds(root):
    folder, run = prepared("s3dis", root)
    run()
    rooms = snapshot(folder / "rooms")
    run(test_area=1)
    assert snapshot(folder / "rooms") == rooms and len(rooms) == 4
    clouds = folder / "test_area_1" / "clouds"
    assert sorted(p.stem for p in (clouds / "val").iterdir()) == ["Area_1_hall_1", "Area_1_hall_2"]
    assert len(list((clouds / "train").iterdir())) == 2
    # The links are relative, so the folder can be moved.
    folder.rename(root / "moved")
    for path in (root / "moved" / "test_area_1" / "clouds").rglob("*.npz"):
        assert path.is_symlink() and read(path)["label"].size == 20


@pytest.mark.parametrize(
    "line, expected",
    [
        # Both exist in the official files.
        (b"-22.157 43.010 3.012 185\x10187 194", [-22.157, 43.01, 3.012, 185, 187, 194]),
        (b"-1.000 2.000 3.000 103.0\x100000 97.0 4.0", [-1, 2, 3, 103, 97, 4]),
        (b"1.5 9.1\xff\xfe0 1.785 146 137 106", [1.5, 9.1, 1.785, 146, 137, 106]),
    ],
)
def test_s3dis_repairs_a_broken_character(root, caplog, line, expected):
    folder, run = prepared("s3dis", root)
    path = folder / "Area_1" / "hall_1" / "Annotations" / "ceiling_1.txt"
    before = path.read_bytes().split(b"\n")
    before[2] = line
    path.write_bytes(b"\n".join(before))
    run()
    cloud = read(folder / "rooms" / "Area_1_hall_1.npz")
    assert len(cloud["label"]) == 20
    row = np.hstack([cloud["xyz"], cloud["color"]])[2]
    np.testing.assert_allclose(row, expected, atol=1e-6)
    assert f"{path}, line 3 has a broken character" in caplog.text
    assert path.read_bytes() == b"\n".join(before)  # the download is not changed


@pytest.mark.parametrize(
    "text, expected",
    [
        (b"1 2 3 4 5\n", "5 numbers per line, expected 6"),
        (b"1 2 3 4 5 6\n1 2 3 4 5\n", "cannot be read"),
        (b"1 2 3 4 5 six\n", "line 1: expected six numbers, found b'1 2 3 4 5 six'"),
        (b"1 2 3 4 5 6-7\n", "cannot be read"),
        (b"1 2 3 4 5 256\n", "a wrong colour"),
        (b"1 2 3 4 5 -1\n", "a wrong colour"),
        (b"\x00" * 100, "line 1: expected six numbers"),
        (b"", "ceiling_1.txt has no points"),
        (b"1e99 2 3 4 5 6", "a number that is not finite"),
    ],
)
def test_s3dis_with_a_wrong_file(root, text, expected):
    folder, run = prepared("s3dis", root)
    write(folder / "Area_1" / "hall_1" / "Annotations" / "ceiling_1.txt", text)
    with pytest.raises(InputError, match=rf"(?s)1 of 2 files could not.*{expected}"):
        run()
    assert [path.name for path in (folder / "rooms").iterdir()] == ["Area_1_hall_2.npz"]


# ---- SemanticKITTI --------------------------------------------------------------------------


def test_semantic_kitti_has_the_official_sizes():
    totals = {split: sum(n.values()) for split, n in semantic_kitti.NUM_SCANS.items()}
    assert totals == {"train": 19130, "val": 4071, "test": 20351}
    assert len(semantic_kitti.CLASSES) == 19 and len(LEARNING_MAP) == 34


def test_semantic_kitti(root):
    folder, run = prepared("semantic_kitti", root)
    run()
    assert class_names(folder) == list(semantic_kitti.CLASSES.values())
    clouds = {
        split: sorted(path.name for path in (folder / "clouds" / split).iterdir())
        for split in SCANS
    }
    assert clouds == {
        "train": [
            f"{name}{suffix}"
            for name in ("00_000000", "00_000001", "00_000002", "09_000000")
            for suffix in (".bin", ".label")
        ],
        "val": ["08_000000.bin", "08_000000.label", "08_000001.bin", "08_000001.label"],
        "test": ["11_000000.bin"],
    }
    shown = set()
    for path in (folder / "clouds").rglob("*.bin"):
        sequence, scan = path.stem.split("_")
        official = folder / "dataset" / "sequences" / sequence
        assert path.is_symlink() and not path.readlink().is_absolute()
        assert path.resolve() == (official / "velodyne" / f"{scan}.bin").resolve()
        if sequence == "11":
            continue
        ids = np.fromfile(official / "labels" / f"{scan}.label", "<u4").tolist()
        label = np.fromfile(path.with_suffix(".label"), "<u4").tolist()
        assert label == [LEARNING_MAP[i % 65536] for i in ids]
        shown.update(label)
    assert shown == {*range(19), 255}


def test_semantic_kitti_in_another_folder_and_without_test_scans(root, caplog):
    folder, run = prepared("semantic_kitti", root)
    (folder / "dataset/sequences/11").rename(root / "11")
    before = snapshot(folder)
    (root / "disk" / "prepared").mkdir(parents=True)
    (root / "short").symlink_to(root / "disk")  # relative links lead through the real folders
    run(output=root / "short" / "prepared")
    assert "test scans are not in" in caplog.text
    assert snapshot(folder) == before
    scans = list((root / "disk/prepared/clouds").rglob("*.bin"))
    assert len(scans) == 6 and all(path.stat().st_size == 640 for path in scans)


@pytest.mark.parametrize(
    "label, expected",
    [
        (np.full(40, 10, "<u4")[:39].tobytes(), "has 39 labels, but .*000000.bin has 40 points"),
        (np.full(40, 10, "<u4").tobytes()[:-2], "has 39.5 labels"),
        (np.full(40, 12, "<u4").tobytes(), r"has the ids 12 \(40 points\), which the official"),
    ],
)
def test_semantic_kitti_with_a_wrong_label(root, label, expected):
    folder, run = prepared("semantic_kitti", root)
    write(folder / "dataset/sequences/09/labels/000000.label", label)
    with pytest.raises(InputError, match=expected):
        run()
    assert not (folder / "clouds/train/09_000000.label").exists()
    assert len(list((folder / "clouds/train").glob("*.label"))) == 3


# ---- Oakland --------------------------------------------------------------------------------


def test_oakland(root):
    folder, run = prepared("oakland", root)
    run()
    tool = load_tool("oakland")
    assert len(tool.CLASSES) == 34 and class_names(folder) == list(tool.CLASSES.values())
    assert {split: len(names) for split, names in tool.TILES.items()} == {"train": 11, "val": 6}
    ids = list(tool.CLASSES)
    for split, names in TILES.items():
        assert sorted(p.stem for p in (folder / "clouds" / split).iterdir()) == sorted(names)
        for name in names:
            cloud = read(folder / "clouds" / split / f"{name}.npz")
            if (path := folder / f"oakland_{name}.npz").exists():
                xyz, labels = read(path)["xyz"], read(path)["label"].tolist()
            else:
                text = path.with_suffix(".xyz_label_conf").read_text()
                rows = [line.split() for line in text.splitlines()]
                xyz = [[np.float32(word) for word in row[:3]] for row in rows]
                labels = [int(row[3]) for row in rows]
            np.testing.assert_array_equal(cloud["xyz"], xyz)
            assert cloud["label"].tolist() == [ids.index(i) if i in ids else 255 for i in labels]
            assert cloud["label"].dtype == np.uint8 and 255 in cloud["label"]


@pytest.mark.parametrize(
    "arrays, expected",
    [
        ({"xyz": np.zeros((3, 3))}, "cannot be read"),
        ({"xyz": np.zeros((3, 2)), "label": np.zeros(3)}, r"found \(3, 2\) and \(3,\)"),
        ({"xyz": np.zeros((3, 3)), "label": np.zeros(2)}, r"found \(3, 3\) and \(2,\)"),
        ({"xyz": np.zeros((0, 3)), "label": np.zeros(0)}, r"found \(0, 3\) and \(0,\)"),
        ({"xyz": np.array([[{}] * 3]), "label": np.zeros(1)}, "cannot be read"),
    ],
)
def test_oakland_with_wrong_arrays(root, arrays, expected):
    folder, run = prepared("oakland", root)
    np.savez(folder / "oakland_part2_ac.npz", **arrays)
    with pytest.raises(InputError, match=f"part2_ac.npz.*{expected}"):
        run()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1 2 3 1100 0\n", r"has the ids 1100 \(1 points\)"),
        ("1 2 3 -7 0\n", "a label outside of 0 to 65535"),
        ("1 2 3 99999999999 0\n", "a label outside of 0 to 65535"),
        ("1 2 nan 1203 0\n", "a coordinate that is not finite"),
        ("1 2 x 1203 0\n", "cannot be read"),
        ("1 2 3\n", "cannot be read"),
    ],
)
def test_oakland_with_a_wrong_tile(root, text, expected):
    folder, run = prepared("oakland", root)
    write(folder / "oakland_part3_aj.xyz_label_conf", text)
    with pytest.raises(InputError, match=expected):
        run()
    assert [p.name for p in (folder / "clouds" / "train").iterdir()] == ["part2_ac.npz"]


# ---- all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_second_run_writes_only_what_is_missing(name, root, capsys):
    folder, run = prepared(name, root)
    downloaded = snapshot(folder)
    run()
    done = snapshot(folder)
    assert {path: done[path] for path in downloaded} == downloaded
    assert not [p for p in done.keys() - downloaded.keys() if p.name.startswith(".")]
    run()
    assert snapshot(folder) == done
    # A program that was stopped: some files are not there.
    clouds = sorted(p for p in folder.rglob("clouds/**/*") if p.is_file())
    for path in clouds[::2]:
        path.unlink()
    run()
    again = snapshot(folder)
    assert again.keys() == done.keys()
    assert {path: content for path, (_, content) in again.items()} == {
        path: content for path, (_, content) in done.items()
    }
    changed = {path for path in done if again[path][0] != done[path][0]}
    assert changed == set(clouds[::2])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", NAMES)
def test_no_file_that_is_there_is_replaced_or_deleted(name, root):
    folder, run = prepared(name, root)
    downloaded = snapshot(folder)
    run()
    written = sorted(p for p in snapshot(folder).keys() - downloaded.keys() if p.suffix != ".txt")
    for path in written:
        path.unlink()
    own, dangling, *_ = (path for path in written if "rooms" not in path.parts)
    own.write_bytes(b"the user's")
    dangling.symlink_to(root / "nothing")
    run()
    assert own.read_bytes() == b"the user's"
    assert dangling.is_symlink() and not (root / "nothing").exists()
    (classes,) = folder.rglob("classes.txt")
    classes.write_text("my class\n")
    with pytest.raises(InputError, match=f"{classes} has other classes than"):
        run()
    assert classes.read_text() == "my class\n"


@pytest.mark.parametrize(
    "name, file, expected",
    [
        ("oakland", "oakland_part2_ac.npz", r"1 of 2 tiles of the split train are missing"),
        ("s3dis", "Area_1/hall_2/Annotations", r"Area_1: 1 found, 2 expected \(1 missing\)"),
        ("s3dis", "Area_5", "Folder not found: .*Area_5"),
        ("scannet", "scans/scene0001_00/scene0001_00_vh_clean_2.ply", r"1 of 9 files of the split"),
        ("scannet", "scans/scene0011_00/scene0011_00.aggregation.json", r"1 of 3 files.*val are"),
        ("scannet", "scans_test/scene0707_00", "1 of 1 files of the split test are missing"),
        ("scannet", "scannetv2-labels.combined.tsv", "labels.combined.tsv cannot be read"),
        ("semantic_kitti", "dataset/sequences/00/velodyne/000001.bin", r"2 found, 3 expected"),
        ("semantic_kitti", "dataset/sequences/08/labels/000001.label", r"1 of 2 labels of seq.*08"),
        ("semantic_kitti", "dataset/sequences/08/velodyne", "Folder not found: .*08/velodyne"),
    ],
)
def test_missing_files_are_named_before_anything_is_written(name, file, expected, root):
    folder, run = prepared(name, root)
    (folder / file).rename(root / "elsewhere")
    before = snapshot(folder)
    with pytest.raises(InputError, match=rf"{expected}.*--help"):
        run()
    assert snapshot(folder) == before


def test_s3dis_room_without_objects(root):
    folder, run = prepared("s3dis", root)
    for path in (folder / "Area_6/copy_1/Annotations").glob("*.txt"):
        path.unlink()
    with pytest.raises(InputError, match="copy_1/Annotations has no file CLASS_N.txt.*--help"):
        run()


@pytest.mark.parametrize("name", NAMES)
def test_command_line(name, root, capsys):
    tool = load_tool(name)
    assert tool.main([]) == 1
    error = capsys.readouterr().err
    assert str(root / LAYOUTS[name][0]) in error and f"tools/prepare_{name}.py --help" in error
    for words in (["--classes", "21"], ["--test-area", "7"], ["--output"]):
        with pytest.raises(SystemExit):
            tool.main(words)
    capsys.readouterr()


def test_command_line_prepares_scannet20_in_another_folder(root, capsys, monkeypatch):
    tool = load_tool("scannet")
    write_scannet(root / "download")
    monkeypatch.setattr(tool, "scenes", lambda: SCENES)
    words = ["--folder", str(root / "download"), "--output", str(root / "x"), "--threads", "1"]
    assert tool.main([*words, "--classes", "20"]) == 0
    assert len(list((root / "x" / "scannet20").rglob("*.npz"))) == 5
    streams = capsys.readouterr()
    assert "ScanNet20 train: 100%" in streams.err and "3/3" in streams.err and streams.out == ""
    assert tool.main([*words, "--quiet"]) == 0
    assert len(list((root / "x" / "scannet200").rglob("*.npz"))) == 5
    assert capsys.readouterr() == ("", "")


def test_command_line_prepares_a_fold_of_s3dis(root, monkeypatch):
    tool = load_tool("s3dis")
    write_s3dis(root / "Stanford3dDataset_v1.2")
    sizes = {area: len(rooms) for area, rooms in ROOMS.items()}
    monkeypatch.setattr(tool.prepare_s3dis, "__defaults__", (5, None, sizes))
    assert tool.main(["--test-area", "6", "--quiet"]) == 0
    val = root / "Stanford3dDataset_v1.2" / "test_area_6" / "clouds" / "val"
    assert [path.name for path in val.iterdir()] == ["Area_6_copy_1.npz"]
