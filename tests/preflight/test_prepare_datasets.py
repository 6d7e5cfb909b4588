"""What `prepare` makes of DATASETS.FOLDER and DATASETS.TEST, and what it says of the data."""

import shutil

import numpy as np
import pytest
from PIL import Image

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError
from sar.preflight.prepare import complete_config
from sar.training.trainer import Trainer

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..runs import CONFIG, prepared


@pytest.fixture(autouse=True)
def own_catalogs(monkeypatch):
    """What a test registers goes with it."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))


def test_no_evaluation_if_the_command_line_says_so(overrides):
    assert prepared(overrides).DATASETS.TEST == ("folder_mine_val",)
    assert prepared([*overrides, "DATASETS.TEST", "()"]).DATASETS.TEST == ()


def test_no_evaluation_if_the_config_says_so(overrides, tmp_path, request):
    base = request.config.rootpath / CONFIG
    (tmp_path / "base.yaml").write_text(f"_BASE_: {base}\nDATASETS:\n  TEST: ()\n")
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\n")
    assert prepared(overrides, config_file=str(tmp_path / "config.yaml")).DATASETS.TEST == ()


def test_a_program_without_a_command_line_evaluates_the_validation_split(overrides):
    cfg = load_config(CONFIG, overrides)
    complete_config(cfg, trains=False)
    assert cfg.DATASETS.TEST == ("folder_mine_val",)


def test_images_to_predict_later_are_no_obstacle(overrides, folder):
    shutil.copytree(folder / "images/val", folder / "images/test")
    assert prepared(overrides).DATASETS.TEST == ("folder_mine_val",)


def test_another_data_set_is_evaluated_if_it_is_named(overrides, folder):
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    prepared([*overrides, "DATASETS.FOLDER", str(other)])
    cfg = prepared([*overrides, "DATASETS.TEST", "('folder_other_val',)"])
    assert cfg.DATASETS.TRAIN == ("folder_mine_train",)
    assert cfg.DATASETS.TEST == ("folder_other_val",)


def test_warnings_of_the_scan_are_logged(overrides, folder, caplog):
    (folder / "classes.txt").write_text("ground\nblock\ndot\npothole\n")
    prepared(overrides)
    (warning,) = (text for text in caplog.messages if "pothole" in text)
    assert warning.startswith("folder_mine_train: No training label has a pixel of the class")


def test_one_class_is_refused_without_a_check_of_the_files(overrides, folder, tmp_path):
    (folder / "classes.txt").write_text("ground\n")
    counts = tmp_path / "counts.json"
    ClassFrequency(("ground",), 1, (1,), (9,), 0).save(counts)
    off = ["DATASETS.CHECK", "False", "DATASETS.CLASS_FREQUENCY", str(counts)]
    with pytest.raises(InputError, match='has one class, "ground", so the softmax has nothing'):
        prepared([*overrides, *off])


def test_palettes_of_training_and_validation_are_compared(overrides, folder, caplog):
    for split, colors in (("train", [255, 0, 0, 0, 0, 255]), ("val", [0, 0, 255, 255, 0, 0])):
        for file in (folder / "labels" / split).iterdir():
            label = Image.fromarray(np.asarray(Image.open(file)))
            label.putpalette([0, 0, 0, *colors, *[0] * 3 * 253])
            label.save(file)
    prepared(overrides)
    (warning,) = (text for text in caplog.messages if "palettes" in text)
    assert "labels/train/" in warning and "labels/val/" in warning


def test_one_class_is_refused(overrides, folder, caplog):
    for file in (folder / "labels/train").iterdir():
        ids = np.asarray(Image.open(file))
        Image.fromarray(np.where(ids == 1, 255, 0).astype(np.uint8)).save(file)
    with pytest.raises(InputError, match="One class has pixels"):
        prepared(overrides)
    assert "if 255 stands for the foreground" in caplog.text


def test_the_range_that_is_set_is_the_one_that_is_checked(overrides, folder, caplog):
    for file in (folder / "images").rglob("*.png"):
        grey = np.asarray(Image.open(file))[:, :, 0]
        Image.fromarray(grey.astype(np.uint16) + 7000).save(file)
    prepared(overrides)
    assert caplog.text.count("grey images of 16 bits") == 2
    caplog.clear()
    prepared([*overrides, "INPUT.BLACK_POINT", "7000", "INPUT.WHITE_POINT", "7255"])
    assert "16 bits" not in caplog.text


def test_a_training_without_evaluation_ends_with_its_model(overrides, folder, tmp_path):
    for part in ("images", "labels"):
        shutil.rmtree(folder / part / "val")
    cfg = prepared([*overrides, "TEST.EVAL_PERIOD", "2"])
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert (tmp_path / "output/model_final.pth").exists()
    assert not (tmp_path / "output/model_best.pth").exists()
