import pytest
from PIL import Image

from sar.data.datasets import load_dataset
from sar.data.datasets.pascal_context import CLASS_OF_OFFICIAL_ID, CLASSES, register
from sar.errors import InputError

from detectron2.data import MetadataCatalog


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folder = tmp_path / "VOCdevkit/VOC2010"
    for path in ("JPEGImages/b.jpg", "JPEGImages/a.jpg", "JPEGImages/unused.jpg"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / path)
    for name in "ba":
        path = folder / f"SegmentationClassContext59/train/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(path)
    return folder


def test_classes():
    # The official ids number 459 names in alphabetical order.
    assert len(set(CLASSES)) == 59
    assert list(CLASS_OF_OFFICIAL_ID) == sorted(CLASS_OF_OFFICIAL_ID)
    assert list(CLASSES) == sorted(CLASSES)
    assert CLASSES[0] == "aeroplane" and CLASSES[-1] == "wood" and "background" not in CLASSES


def test_metadata():
    register()
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"pascal_context_{split}")
        assert tuple(metadata.stuff_classes) == CLASSES
        assert len({tuple(color) for color in metadata.stuff_colors}) == 59
        assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")


def test_only_images_with_a_label_are_loaded(folder):
    a, b = load_dataset("pascal_context_train")
    assert a == {
        "file_name": str(folder / "JPEGImages/a.jpg"),
        "sem_seg_file_name": str(folder / "SegmentationClassContext59/train/a.png"),
        "image_id": "a",
    }
    assert b["image_id"] == "b"


def test_what_is_missing_is_named(folder):
    with pytest.raises(InputError, match="pascal_context_val is not there.*prepare_pascal_context"):
        load_dataset("pascal_context_val")
    (folder / "JPEGImages/a.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 2 images .*a\.jpg"):
        load_dataset("pascal_context_train")
