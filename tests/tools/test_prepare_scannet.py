"""tools/prepare_scannet.py on a miniature copy of the official layout."""

import hashlib
import json
import re
import struct
from collections import Counter

import numpy as np
import pytest

from sar.data.datasets import scannet
from sar.data.datasets.group_file import read_group_file
from sar.errors import InputError

from ..cloud_downloads import (
    CATEGORIES,
    SCENES,
    class_names,
    download,
    load_tool,
    random_mesh,
    read,
    write,
    write_scannet,
)


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
def test_scannet(tmp_path, num_classes):
    folder, run = download("scannet", tmp_path)
    run(num_classes=num_classes)
    output = folder / f"scannet{num_classes}"
    assert {p.name for p in folder.iterdir()} == {
        "scans", "scans_test", "scannetv2-labels.combined.tsv", output.name,
    }  # fmt: skip
    classes = {20: scannet.CLASSES_20, 200: scannet.CLASSES_200}[num_classes]
    assert class_names(output) == list(classes.values())
    groups = read_group_file(output / "groups.json", class_names(output))
    assert {name: len(ids) for name, ids in groups.items()} == {
        20: {},
        200: {"head": 66, "common": 68, "tail": 66},
    }[num_classes]
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


def test_scannet_without_test_scenes(tmp_path, caplog):
    folder, run = download("scannet", tmp_path)
    (folder / "scans_test").rename(folder / "elsewhere")
    run()
    assert "the test scenes are left out" in caplog.text
    assert {p.name for p in (folder / "scannet200" / "clouds").iterdir()} == {"train", "val"}


def test_scannet_with_an_incomplete_list_of_categories(tmp_path):
    folder, run = download("scannet", tmp_path)
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
def test_scannet_with_a_damaged_file(tmp_path, file, damage, expected):
    folder, run = download("scannet", tmp_path)
    path = folder / "scans" / "scene0000_01" / f"scene0000_01{file}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"(?s)1 of 3 files could not.*{expected}.*--help"):
        run()
    # The others are complete, and nothing of the damaged one is left.
    names = sorted(p.name for p in (folder / "scannet200" / "clouds" / "train").iterdir())
    assert names == ["scene0000_00.npz", "scene0001_00.npz"]


def test_command_line_prepares_scannet20_in_another_folder(tmp_path, capsys, monkeypatch):
    tool = load_tool("scannet")
    write_scannet(tmp_path / "download")
    monkeypatch.setattr(tool, "scenes", lambda: SCENES)
    words = [
        "--folder",
        str(tmp_path / "download"),
        "--output",
        str(tmp_path / "x"),
        "--threads",
        "1",
    ]
    assert tool.main([*words, "--classes", "20"]) == 0
    assert len(list((tmp_path / "x" / "scannet20").rglob("*.npz"))) == 5
    streams = capsys.readouterr()
    assert "ScanNet20 train: 100%" in streams.err and "3/3" in streams.err and streams.out == ""
    assert tool.main([*words, "--quiet"]) == 0
    assert len(list((tmp_path / "x" / "scannet200").rglob("*.npz"))) == 5
    assert capsys.readouterr() == ("", "")
