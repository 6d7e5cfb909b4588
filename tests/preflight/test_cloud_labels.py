"""A test set of clouds without ground truth is refused before its evaluation."""

import numpy as np
import pytest

from sar.errors import InputError

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


@pytest.mark.parametrize("suffix", [".npz", ".bin"])
def test_the_error_says_what_to_do(root, tmp_path, suffix):
    path = root / f"clouds/test/11_000000{suffix}"
    points = np.ones((20, 4), np.float32)
    points.tofile(path) if suffix == ".bin" else np.savez(path, xyz=points[:, :3])
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
