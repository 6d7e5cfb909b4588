"""tools/prepare_s3dis.py on a miniature copy of the official layout."""

import numpy as np
import pytest

from sar.errors import InputError

from ..cloud_downloads import (
    ROOMS,
    class_names,
    download,
    load_tool,
    read,
    snapshot,
    write,
    write_s3dis,
)


def test_s3dis(tmp_path):
    folder, run = download("s3dis", tmp_path)
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


def test_s3dis_writes_each_room_once_for_all_folds(tmp_path):
    folder, run = download("s3dis", tmp_path)
    run()
    rooms = snapshot(folder / "rooms")
    run(test_area=1)
    assert snapshot(folder / "rooms") == rooms and len(rooms) == 4
    clouds = folder / "test_area_1" / "clouds"
    assert sorted(p.stem for p in (clouds / "val").iterdir()) == ["Area_1_hall_1", "Area_1_hall_2"]
    assert len(list((clouds / "train").iterdir())) == 2
    # The links are relative, so the folder can be moved.
    folder.rename(tmp_path / "moved")
    for path in (tmp_path / "moved" / "test_area_1" / "clouds").rglob("*.npz"):
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
def test_s3dis_repairs_a_broken_character(tmp_path, caplog, line, expected):
    folder, run = download("s3dis", tmp_path)
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
def test_s3dis_with_a_wrong_file(tmp_path, text, expected):
    folder, run = download("s3dis", tmp_path)
    write(folder / "Area_1" / "hall_1" / "Annotations" / "ceiling_1.txt", text)
    with pytest.raises(InputError, match=rf"(?s)1 of 2 files could not.*{expected}"):
        run()
    assert [path.name for path in (folder / "rooms").iterdir()] == ["Area_1_hall_2.npz"]


def test_s3dis_room_without_objects(tmp_path):
    folder, run = download("s3dis", tmp_path)
    for path in (folder / "Area_6/copy_1/Annotations").glob("*.txt"):
        path.unlink()
    with pytest.raises(InputError, match="copy_1/Annotations has no file CLASS_N.txt.*--help"):
        run()


def test_command_line_prepares_a_fold_of_s3dis(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    tool = load_tool("s3dis")
    write_s3dis(tmp_path / "Stanford3dDataset_v1.2")
    sizes = {area: len(rooms) for area, rooms in ROOMS.items()}
    monkeypatch.setattr(tool.prepare_s3dis, "__defaults__", (5, None, sizes))
    assert tool.main(["--test-area", "6", "--quiet"]) == 0
    val = tmp_path / "Stanford3dDataset_v1.2" / "test_area_6" / "clouds" / "val"
    assert [path.name for path in val.iterdir()] == ["Area_6_copy_1.npz"]
