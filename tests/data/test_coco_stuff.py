import pytest
from PIL import Image

from sar.data.datasets import load_dataset
from sar.data.datasets.coco_stuff import CLASS_OF_OFFICIAL_ID, CLASSES, STUFF, THINGS, register
from sar.errors import InputError

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES


@pytest.fixture
def coco(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split in ("train", "val"):
        for folder, suffix in ((f"{split}2017", "jpg"), (f"coco_stuff_171/{split}2017", "png")):
            (tmp_path / "coco" / folder).mkdir(parents=True)
            for name in "ab":
                Image.new("L", (4, 3)).save(tmp_path / "coco" / folder / f"{name}.{suffix}")
    return tmp_path / "coco"


def test_classes_agree_with_those_of_coco_panoptic():
    assert (len(THINGS), len(STUFF), len(set(CLASSES))) == (80, 91, 171)
    assert list(CLASS_OF_OFFICIAL_ID) == sorted(CLASS_OF_OFFICIAL_ID)
    assert max(CLASS_OF_OFFICIAL_ID) == 182
    # The stuff classes that COCO-panoptic did not merge have kept their ids there.
    kept = [c for c in COCO_CATEGORIES if not c["isthing"] and c["id"] <= 182]
    assert len(kept) == 36
    for category in kept:
        assert CLASS_OF_OFFICIAL_ID[category["id"]] == category["name"]


def test_metadata():
    register()
    for name in ("coco_stuff_train", "coco_stuff_val", "coco_stuff_lt_train"):
        metadata = MetadataCatalog.get(name)
        assert tuple(metadata.stuff_classes) == CLASSES
        assert len({tuple(color) for color in metadata.stuff_colors}) == 171
        assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")


def test_load(coco):
    for split in ("train", "val"):
        a, b = load_dataset(f"coco_stuff_{split}")
        assert a["sem_seg_file_name"] == str(coco / f"coco_stuff_171/{split}2017/a.png")
        assert b["file_name"] == str(coco / f"{split}2017/b.jpg")


def test_missing_labels_name_the_tool(coco):
    (coco / "coco_stuff_171/val2017/a.png").unlink()
    with pytest.raises(InputError, match="1 of 2 images.*prepare_coco_stuff"):
        load_dataset("coco_stuff_val")


def test_long_tail_split(coco):
    (coco / "coco-stuff-lt.txt").write_text("b.jpg\n")
    (record,) = load_dataset("coco_stuff_lt_train")
    assert record == load_dataset("coco_stuff_train")[1]


@pytest.mark.parametrize(
    "text, expected",
    [
        (None, "cannot be read.*github.com/caopulan/Mask2Former-LT.*put it at"),
        ("", "is empty or names"),
        ("a.jpg\na.jpg\n", "is empty or names an image twice"),
        ("a.jpg\nc.jpg\n", 'names 1 images that coco_stuff_train does not have.*"c"'),
    ],
)
def test_wrong_list_of_the_long_tail_split(coco, text, expected):
    if text is not None:
        (coco / "coco-stuff-lt.txt").write_text(text)
    with pytest.raises(InputError, match=expected):
        load_dataset("coco_stuff_lt_train")
