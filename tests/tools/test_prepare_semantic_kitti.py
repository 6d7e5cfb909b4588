"""tools/prepare_semantic_kitti.py on a miniature copy of the official layout."""

import numpy as np
import pytest

from sar.data.datasets import semantic_kitti
from sar.errors import InputError

from ..cloud_downloads import LEARNING_MAP, SCANS, class_names, download, snapshot, write


def test_semantic_kitti_has_the_official_sizes():
    totals = {split: sum(n.values()) for split, n in semantic_kitti.NUM_SCANS.items()}
    assert totals == {"train": 19130, "val": 4071, "test": 20351}
    assert len(semantic_kitti.CLASSES) == 19 and len(LEARNING_MAP) == 34


def test_semantic_kitti(tmp_path):
    folder, run = download("semantic_kitti", tmp_path)
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


def test_semantic_kitti_in_another_folder_and_without_test_scans(tmp_path, caplog):
    folder, run = download("semantic_kitti", tmp_path)
    (folder / "dataset/sequences/11").rename(tmp_path / "11")
    before = snapshot(folder)
    (tmp_path / "disk" / "prepared").mkdir(parents=True)
    (tmp_path / "short").symlink_to(
        tmp_path / "disk"
    )  # relative links lead through the real folders
    run(output=tmp_path / "short" / "prepared")
    assert "test scans are not in" in caplog.text
    assert snapshot(folder) == before
    scans = list((tmp_path / "disk/prepared/clouds").rglob("*.bin"))
    assert len(scans) == 6 and all(path.stat().st_size == 640 for path in scans)


@pytest.mark.parametrize(
    "label, expected",
    [
        (np.full(40, 10, "<u4")[:39].tobytes(), "has 39 labels, but .*000000.bin has 40 points"),
        (np.full(40, 10, "<u4").tobytes()[:-2], r"has 158 bytes\. Expected 4 bytes for each point"),
        (np.full(40, 12, "<u4").tobytes(), r"has the ids 12 \(40 points\), which the official"),
    ],
)
def test_semantic_kitti_with_a_wrong_label(tmp_path, label, expected):
    folder, run = download("semantic_kitti", tmp_path)
    write(folder / "dataset/sequences/09/labels/000000.label", label)
    with pytest.raises(InputError, match=expected):
        run()
    assert not (folder / "clouds/train/09_000000.label").exists()
    assert len(list((folder / "clouds/train").glob("*.label"))) == 3
