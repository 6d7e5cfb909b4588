"""What is refused before a run on point clouds, and when changed clouds are read again."""

import numpy as np
import pytest

from sar.data.class_frequency import class_frequency_of
from sar.errors import InputError

from ..data.clouds.writers import write
from ..runs import prepared

CONFIG = "configs/Folder/baseline_sparse_unet_small.yaml"


@pytest.fixture
def root(tmp_path):
    """A folder with labelled clouds to train on, and a test split without labels."""
    root, points = tmp_path / "scans", np.random.default_rng(0).normal(size=(20, 4))
    for split in ("train", "test"):
        (root / "clouds" / split).mkdir(parents=True)
    np.savez(root / "clouds/train/a.npz", xyz=points[:, :3], label=np.arange(20) % 2)
    (root / "classes.txt").write_text("floor\nblock\n")
    return root


def prepare(root, tmp_path, *words, eval_only=True):
    common = ["DATASETS.FOLDER", str(root), "OUTPUT_DIR", str(tmp_path / "output")]
    words = [*common, "DATASETS.TEST", "('folder_scans_test',)", *words]
    return prepared(words, config_file=CONFIG, eval_only=eval_only)


@pytest.mark.parametrize("suffix", [".npz", ".bin", ".las"])
def test_a_test_set_without_ground_truth_says_what_to_do(root, tmp_path, suffix):
    if suffix == ".las":
        pytest.importorskip("laspy", reason="needs pip install -e .[points]")
    path = root / f"clouds/test/11_000000{suffix}"
    write(path, xyz=np.ones((20, 3)))
    message = f'"folder_scans_test" in DATASETS.TEST cannot be evaluated. The cloud {path} has no '
    with pytest.raises(InputError, match=message + "labels.*use tools/predict.py"):
        prepare(root, tmp_path)
    with pytest.raises(InputError, match=message):
        prepare(root, tmp_path, "DATASETS.CHECK", "False", eval_only=False)
    with pytest.raises(InputError, match=f"(?s)1 problems.*The cloud {path} has no labels"):
        prepare(root, tmp_path, eval_only=False)  # it reads all clouds
    if suffix == ".bin":
        np.zeros(20, "<u4").tofile(path.with_suffix(".label"))
        assert prepare(root, tmp_path, eval_only=False).DATASETS.TEST == ("folder_scans_test",)


def write_scan(root, labels):
    """A training set of one KITTI scan; only its file of labels is written again."""
    scan = root / "clouds/train/a.bin"
    if not scan.exists():
        (root / "clouds/train/a.npz").unlink()
        np.random.default_rng(0).normal(size=(20, 4)).astype("<f4").tofile(scan)
    np.asarray(labels, "<u4").tofile(scan.with_suffix(".label"))


def test_changed_labels_of_a_scan_of_kitti_are_read_again(root, tmp_path):
    words = ["DATASETS.TEST", "()"]
    write_scan(root, [0] * 8 + [1] * 12)
    cfg = prepare(root, tmp_path, *words, eval_only=False)
    assert class_frequency_of(cfg).pixels == (8, 12)
    write_scan(root, [0] * 15 + [1] * 5)
    cfg = prepare(root, tmp_path, *words, eval_only=False)
    assert class_frequency_of(cfg).pixels == (15, 5)
    write_scan(root, [0] * 15 + [9] * 5)
    with pytest.raises(InputError, match="a.label has the ids 9"):
        prepare(root, tmp_path, *words, eval_only=False)
    write_scan(root, [0, 1])
    with pytest.raises(InputError, match="(?s)^1 problems.*a.label has 2 labels, .* 20 points"):
        prepare(root, tmp_path, *words, eval_only=False)


@pytest.mark.parametrize(
    "words, far, message",
    [
        (["INPUT.POINTS.FEATURES", "('xyz', 'color')"], 1, "t.npz has no color"),
        ([], 1e9, "t.npz cannot be divided into voxels"),
    ],
)
def test_clouds_that_the_model_cannot_take(words, far, message, root, tmp_path):
    xyz, label = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    np.savez(root / "clouds/train/a.npz", xyz=xyz, label=label, color=np.zeros_like(xyz))
    xyz[0] *= far
    np.savez(root / "clouds/test/t.npz", xyz=xyz, label=label)
    with pytest.raises(InputError, match=f"(?s)^1 problems.*{message}"):
        prepare(root, tmp_path, *words, eval_only=False)


@pytest.mark.parametrize("key", ["TEST.OBJECTS", "TEST.BOUNDARY_IOU"])
def test_measures_of_regions_need_images(key, root, tmp_path):
    with pytest.raises(InputError, match=f"{key} is True, but it measures regions of images"):
        prepare(root, tmp_path, "DATASETS.TEST", "()", key, "True", eval_only=False)
