import os

import pytest
from PIL import Image

from sar.data import datasets
from sar.data.datasets import camvid, load_dataset
from sar.data.scan import scan_dataset
from sar.errors import InputError

from detectron2.data import DatasetCatalog, MetadataCatalog

needs_camvid = pytest.mark.skipif(
    not os.path.isdir(os.path.join(datasets.root(), "camvid", "images", "train")),
    reason="no camvid/ under DETECTRON2_DATASETS",
)


def make_camvid(root, split, names=("a", "b")):
    for part, suffix in (("images", "jpg"), ("labels", "png")):
        folder = root / "camvid" / part / split
        folder.mkdir(parents=True)
        for name in names:
            Image.new("L", (4, 3)).save(folder / f"{name}.{suffix}")


def test_metadata():
    for split in ("train", "val", "test"):
        metadata = MetadataCatalog.get(f"camvid_{split}")
        assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == 11
        assert metadata.stuff_classes[0] == "sky" and metadata.stuff_classes[10] == "bicyclist"
        assert len({tuple(color) for color in metadata.stuff_colors}) == 11
        assert metadata.ignore_label == 255
        assert metadata.evaluator_type == "sem_seg"


def test_registering_again_changes_nothing():
    before = MetadataCatalog.get("camvid_train").as_dict()
    camvid.register()
    assert MetadataCatalog.get("camvid_train").as_dict() == before
    assert "camvid_train" in DatasetCatalog


def test_root_is_read_when_the_data_set_is_loaded(tmp_path, monkeypatch):
    make_camvid(tmp_path / "one", "train", ("a", "b"))
    make_camvid(tmp_path / "two", "train", ("c",))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "one"))
    assert [d["image_id"] for d in load_dataset("camvid_train")] == ["a", "b"]
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "two"))
    (record,) = load_dataset("camvid_train")
    assert record == {
        "file_name": str(tmp_path / "two/camvid/images/train/c.jpg"),
        "sem_seg_file_name": str(tmp_path / "two/camvid/labels/train/c.png"),
        "image_id": "c",
    }


def test_root_without_variable_and_with_home(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert datasets.root() == "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert datasets.root() == os.path.expanduser("~/data")


def test_missing_split_names_path_variable_and_tree(tmp_path, monkeypatch):
    make_camvid(tmp_path, "train")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(InputError) as error:
        load_dataset("camvid_test")
    for part in (
        f"Folder of images not found: {tmp_path / 'camvid/images/test'}",
        f"DETECTRON2_DATASETS is {tmp_path}",
        "camvid/labels/test/NAME.png",
    ):
        assert part in str(error.value)


def test_missing_data_set_where_the_variable_is_not_set(tmp_path, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        load_dataset("camvid_val")
    assert f"DETECTRON2_DATASETS is not set, which means {tmp_path / 'datasets'}" in str(
        error.value
    )


def test_image_without_label(tmp_path, monkeypatch):
    make_camvid(tmp_path, "train")
    (tmp_path / "camvid/labels/train/b.png").unlink()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(InputError, match=r"1 of 2 images .*no label .*b\.jpg"):
        load_dataset("camvid_train")


def test_unknown_name_has_the_nearest():
    with pytest.raises(InputError, match='"camvid_trian".*Did you mean "camvid_train"'):
        load_dataset("camvid_trian")


@pytest.mark.parametrize(
    "load, expected",
    [
        (lambda: open("/nowhere/labels"), "cannot be loaded.*nowhere"),
        (lambda: [], "is empty"),
    ],
)
def test_a_loader_that_fails_names_data_set_and_variable(monkeypatch, load, expected):
    for catalog in (DatasetCatalog, MetadataCatalog):  # what is registered goes with the test
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    datasets.register("fails_train", load, ["a"], [[0, 0, 0]])
    with pytest.raises(InputError, match=f'"fails_train" {expected}.*DETECTRON2_DATASETS'):
        load_dataset("fails_train")


@needs_camvid
def test_number_of_images():
    assert len(load_dataset("camvid_train")) == 367
    assert len(load_dataset("camvid_val")) == 101


@needs_camvid
def test_pixel_shares_are_those_published():
    scan = scan_dataset(
        load_dataset("camvid_train"), camvid.CLASSES, 255, check_images=False, progress=False
    )
    assert scan.problems == []
    counts = [*scan.frequency.pixels, scan.frequency.ignored_pixels]
    assert sum(counts) == 367 * 480 * 360
    shares = [count / sum(counts) for count in counts]
    published = [0.168, 0.233, 0.010, 0.317, 0.045, 0.097, 0.012, 0.011, 0.059, 0.006, 0.003, 0.039]
    assert shares == pytest.approx(published, abs=1e-3)
