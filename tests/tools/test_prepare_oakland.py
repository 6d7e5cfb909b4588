"""tools/prepare_oakland.py on a miniature copy of the official layout."""

import numpy as np
import pytest

from sar.errors import InputError

from ..cloud_downloads import TILES, class_names, download, load_tool, read, write


def test_oakland(tmp_path):
    folder, run = download("oakland", tmp_path)
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
        ({"xyz": np.zeros((3, 3))}, "has no labels. Expected an array label"),
        ({"xyz": np.zeros((3, 2)), "label": np.zeros(3)}, "has the shape 3x2. Expected Nx3"),
        ({"xyz": np.zeros((3, 3)), "label": np.zeros(2)}, "has the shape 2. Expected 3"),
        ({"xyz": np.zeros((0, 3)), "label": np.zeros(0)}, "has no points"),
        ({"xyz": np.array([[{}] * 3]), "label": np.zeros(1)}, "has the type object"),
        ({"xyz": np.zeros((1, 3)), "label": np.array([1203.7])}, r"is 1203\.7\. Expected whole"),
    ],
)
def test_oakland_with_wrong_arrays(tmp_path, arrays, expected):
    folder, run = download("oakland", tmp_path)
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
        ("1 2 1e39 1203 0\n", "a coordinate that is not finite"),
        ("1 2 3 1203.7 0\n", r"label of point 0 .* is 1203\.7\. Expected whole numbers"),
        ("1 2 x 1203 0\n", 'Line 1 of .* has "x", expected a number'),
        ("1 2 3\n", "Line 1 of .* has 3 columns, expected 5"),
        ("1 2 3 1203\n", "Line 1 of .* has 4 columns, expected 5"),
        ("", "has lines without numbers"),
    ],
)
def test_oakland_with_a_wrong_tile(tmp_path, text, expected):
    folder, run = download("oakland", tmp_path)
    write(folder / "oakland_part3_aj.xyz_label_conf", text)
    with pytest.raises(InputError, match=expected):
        run()
    assert [p.name for p in (folder / "clouds" / "train").iterdir()] == ["part2_ac.npz"]
