"""tools/check_dataset.py on a folder of point clouds."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.study.comparison import plan_comparison

from ..clouds import NUM_POINTS
from ..programs import load_program

PATH = Path(__file__).parents[2] / "tools" / "check_dataset.py"
CONFIG = "configs/Folder/recommended_sparse_unet_small.yaml"


@pytest.fixture(scope="module")
def tool():
    program = load_program(PATH)
    program.RECOMMENDED_FOR_CLOUDS = dict.fromkeys(program.RECOMMENDED_FOR_CLOUDS, CONFIG)
    return program


def test_words_counts_pictures_and_commands_are_of_clouds(tool, cloud_folder, tmp_path, capsys):
    words = ["--folder", str(cloud_folder), "--output", str(tmp_path / "out"), "--pictures"]
    assert tool.main(words) == 0
    out = capsys.readouterr().out
    name = "folder_scans_train"
    assert f"{name}: 3 clouds, {3 * NUM_POINTS} labelled or ignored points" in out
    assert f"points of a cloud: {NUM_POINTS} to {NUM_POINTS}, median {NUM_POINTS}" in out
    labels = [np.load(path)["label"] for path in (cloud_folder / "clouds/train").iterdir()]
    counts = np.bincount(np.concatenate(labels), minlength=256)
    frequency = ClassFrequency.load(tmp_path / "out" / "class_frequency.json")
    assert frequency.pixels == tuple(counts[:3]) and frequency.images == (3, 3, 3)
    for split in ("train", "val"):
        for picture in ("classes.png", "samples.jpg"):
            with Image.open(tmp_path / "out" / f"folder_scans_{split}_{picture}") as drawn:
                assert np.asarray(drawn).std() > 0
    advice = out.split("\nAdvice for ")[1]
    assert "tail by cloud" in advice and "tail by point" in advice and "voxel size" in advice
    # Folders and options are not words.
    said = out.replace(str(tmp_path), "").replace("--pictures", "")
    said = re.sub(r"(DATASETS|INPUT|MODEL)\.\S+", "", said)
    assert not re.search(r"\b(images?|pixels?|crops?)\b", said), said
    commands = re.findall(r"\n  (python (?:.*\\\n)*.*)", advice)
    train, compare = (shlex.split(c.replace("\\\n", "")) for c in (commands[0], commands[-1]))
    plain = CONFIG.replace("recommended", "baseline")
    cfg = load_config(train[3], train[4:])
    assert cfg.DATASETS.FOLDER == str(cloud_folder) and cfg.INPUT.POINTS.VOXEL_SIZE > 0
    assert compare[:6] == [
        "python", "tools/compare.py", "--folder", str(cloud_folder), "--config-file", plain,
    ]  # fmt: skip
    methods = {"plain": {}, "faster": {"SOLVER.BASE_LR": 0.1}}
    study = plan_comparison(methods, plain, folder=str(cloud_folder))
    assert study.test == "folder_scans_val"


def test_problems_of_clouds_are_named_once(tool, cloud_folder, tmp_path, capsys):
    train = cloud_folder / "clouds" / "train"
    (train / "0.npz").write_bytes(b"PK broken")
    arrays = dict(np.load(train / "1.npz"))
    np.savez(train / "1.npz", **{**arrays, "label": np.where(arrays["label"] == 2, 7, 0)})
    np.savez(train / "2.npz", xyz=arrays["xyz"])
    words = ["--folder", str(cloud_folder), "--output", str(tmp_path / "out")]
    assert tool.main(words) == 1
    out = capsys.readouterr().out
    assert "unreadable cloud (1):" in out and "unreadable label (1):" in out
    assert "2.npz has no labels" in out and "1.npz has the ids 7 (6 points)" in out
    assert "Relabel these points" in out and "import_dataset" not in out


def test_clouds_without_a_feature_are_named(tool, cloud_folder, tmp_path, capsys):
    train = cloud_folder / "clouds" / "train"
    for name in ("0.npz", "1.npz"):
        arrays = dict(np.load(train / name))
        np.savez(train / name, **arrays, color=np.zeros_like(arrays["xyz"]))
    words = ["--folder", str(cloud_folder), "--output", str(tmp_path / "out")]
    assert tool.main(words) == 0
    found = "features of 3 clouds: xyz in 3, color in 2, normal in 0, intensity in 0\n"
    assert found in capsys.readouterr().out
    assert tool.main([*words, "INPUT.POINTS.FEATURES", "('xyz', 'color')"]) == 1
    out = capsys.readouterr().out
    assert found in out and "2.npz has no color, which INPUT.POINTS.FEATURES names" in out


def test_splits_without_labels_are_left_out(tool, cloud_folder, tmp_path, capsys):
    (cloud_folder / "clouds" / "test").mkdir()
    xyz = np.load(cloud_folder / "clouds/train/1.npz")["xyz"]
    np.savez(cloud_folder / "clouds" / "test" / "0.npz", xyz=xyz)
    words = ["--folder", str(cloud_folder), "--output", str(tmp_path / "out")]
    assert tool.main(words) == 0
    said = "folder_scans_test is not checked, because its clouds have no labels."
    assert said in capsys.readouterr().out


def test_a_split_of_which_some_clouds_lack_labels_is_checked(tool, cloud_folder, tmp_path, capsys):
    first = sorted((cloud_folder / "clouds" / "val").iterdir())[0]
    np.savez(first, xyz=np.load(first)["xyz"])
    words = ["--folder", str(cloud_folder), "--output", str(tmp_path / "out")]
    assert tool.main(words) == 1
    assert f"{first} has no labels" in capsys.readouterr().out


def test_a_config_for_images_is_refused(tool, cloud_folder, folder, capsys):
    config = ["--config-file", "configs/Folder/baseline_sem_fpn_R_18.yaml"]
    assert tool.main(["--folder", str(cloud_folder), *config]) == 1
    assert "has clouds, but --config-file" in capsys.readouterr().err
    assert tool.main(["--folder", str(folder), "--config-file", CONFIG]) == 1
    assert "has images, but --config-file" in capsys.readouterr().err
