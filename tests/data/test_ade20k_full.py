import numpy as np
import pytest
from PIL import Image

from sar.data.datasets import load_dataset
from sar.data.datasets.ade20k_full import read_classes, register
from sar.errors import InputError

from detectron2.data import MetadataCatalog


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folder = tmp_path / "ADE20K_2021_17_01/ade20k_full"
    for part in ("images", "labels"):
        (folder / part / "train").mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (4, 3)).save(folder / f"images/train/{name}.jpg")
        Image.fromarray(np.zeros((3, 4), np.uint16)).save(folder / f"labels/train/{name}.png")
    (folder / "classes.txt").write_text("".join(f"{3 * i + 1} name, {i}\n" for i in range(847)))
    return folder


def test_load(folder):
    a, _ = load_dataset("ade20k_full_train")
    assert a["sem_seg_file_name"] == str(folder / "labels/train/a.png")
    with pytest.raises(
        InputError, match="Folder of images not found.*images/val.*prepare_ade20k_full"
    ):
        load_dataset("ade20k_full_val")


def test_metadata_reads_the_names_when_asked(folder):
    register()
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"ade20k_full_{split}")
        assert metadata.get("stuff_classes") == [f"name, {i}" for i in range(847)]
        assert len({tuple(color) for color in metadata.stuff_colors}) == 847
        assert (metadata.ignore_label, metadata.evaluator_type) == (65535, "sem_seg")
        assert metadata.get("thing_classes") is None
        with pytest.raises(AttributeError):
            _ = metadata.thing_classes
    (folder / "classes.txt").unlink()
    with pytest.raises(InputError, match="cannot be read.*prepare_ade20k_full"):
        _ = metadata.stuff_classes


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1 wall\n2\n", 'line 2: .*found "2"'),
        ("wall 1\n", 'line 1: .*found "wall 1"'),
        ("1 wall\n1 sky\n", 'line 2: .*found "1 sky"'),
        ("1 wall\n", "has 1 classes, expected 2"),
    ],
)
def test_wrong_classes(tmp_path, text, expected):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match=expected):
        read_classes(tmp_path / "classes.txt", "", num_classes=2)
