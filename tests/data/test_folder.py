import errno
import logging
import os
import unicodedata

import pytest
from PIL import Image

from sar.config import add_sar_config
from sar.data.datasets import load_dataset
from sar.data.datasets.folder import (
    choose_splits,
    default_color,
    list_clouds,
    pair_images_and_labels,
    register_folder,
)
from sar.errors import InputError

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog


def add(path, size=(4, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for catalog in (DatasetCatalog, MetadataCatalog):  # what a test registers goes with it
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    folder = tmp_path / "roads"
    for split, names in (("train", ("a.jpg", "b.PNG", "city/a.tif")), ("val", ("c.bmp",))):
        for name in names:
            add(folder / "images" / split / name)
            add((folder / "labels" / split / name).with_suffix(".png"))
    (folder / "classes.txt").write_text("road\npothole\n")
    return folder


def test_splits_and_metadata(folder):
    train, val = register_folder(folder)
    assert (train, val) == ("folder_roads_train", "folder_roads_val")
    dicts = load_dataset(train)
    assert [d["image_id"] for d in dicts] == ["a", "b", "city/a"]
    assert dicts[2] == {
        "file_name": str(folder / "images/train/city/a.tif"),
        "sem_seg_file_name": str(folder / "labels/train/city/a.png"),
        "image_id": "city/a",
    }
    assert [d["image_id"] for d in load_dataset(val)] == ["c"]
    metadata = MetadataCatalog.get(val)
    assert metadata.stuff_classes == ["road", "pothole"]
    assert metadata.ignore_label == 255
    assert metadata.evaluator_type == "sem_seg"


def test_registering_again_takes_what_is_there_now(folder):
    names = register_folder(folder)
    (folder / "classes.txt").write_text("road\npothole\ncrack\n")
    add(folder / "images/val/d.jpg")
    add(folder / "labels/val/d.png")
    assert register_folder(str(folder)) == names
    assert MetadataCatalog.get(names[0]).stuff_classes == ["road", "pothole", "crack"]
    assert len(load_dataset(names[1])) == 2


def test_two_folders_of_one_name_are_two_data_sets(folder, tmp_path):
    first = register_folder(folder)
    other = tmp_path / "elsewhere" / "roads"
    other.parent.mkdir()
    folder.rename(other)
    add(other / "images/val/d.jpg")
    add(other / "labels/val/d.png")
    second = register_folder(other)
    assert not set(first) & set(second)
    assert register_folder(other) == second
    assert len(load_dataset(second[1])) == 2
    assert all("/" not in name for name in second)


def test_a_test_split_is_there_where_the_folder_has_one(folder, tmp_path):
    add(folder / "images/test/d.jpg")
    add(folder / "labels/test/d.png")
    names = register_folder(folder)
    assert names == ("folder_roads_train", "folder_roads_val", "folder_roads_test")
    assert [d["image_id"] for d in load_dataset(names[2])] == ["d"]


@pytest.mark.parametrize("part", ["images", "labels"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_images_or_labels_is_no_data_set(folder, tmp_path, split, part):
    for each in ("images", "labels"):
        add((folder / each / "test/d").with_suffix(".png"))
    name = f"folder_roads_{split}"
    assert name in register_folder(folder)
    (folder / part / split).rename(tmp_path / "away")
    assert len(register_folder(folder)) == 2
    assert name not in DatasetCatalog and name not in MetadataCatalog


@pytest.mark.parametrize("num_classes, ignore_label", [(255, 255), (256, 65535)])
def test_ignore_label_goes_with_the_number_of_classes(folder, num_classes, ignore_label):
    (folder / "classes.txt").write_text("\n".join(f"class {i}" for i in range(num_classes)))
    metadata = MetadataCatalog.get(register_folder(folder)[0])
    assert metadata.ignore_label == ignore_label
    assert len({tuple(color) for color in metadata.stuff_colors}) == num_classes


def test_colours_of_classes(folder):
    (folder / "classes.txt").write_text("road\npothole #c81e28\n")
    metadata = MetadataCatalog.get(register_folder(folder)[0])
    assert metadata.stuff_colors == [default_color(0), [200, 30, 40]]
    assert metadata.given_colors == {1: [200, 30, 40]}


def test_default_colours_are_pascal_vocs():
    expected = [[128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]
    assert [default_color(i) for i in range(5)] == expected
    assert default_color(19) == [0, 64, 128]  # the twentieth, tvmonitor


# -- what is missing


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(
        InputError, match=r"Folder not found: .*nowhere \(DATASETS\.FOLDER\).*classes\.txt"
    ):
        register_folder(tmp_path / "nowhere")


def test_no_classes(folder):
    (folder / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"roads/classes\.txt is not there"):
        register_folder(folder)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_training_split_that_is_not_there(folder, part):
    (folder / part / "train").rename(folder / "away")
    assert register_folder(folder) == ("folder_roads_val",)
    with pytest.raises(InputError, match=f"Folder of {part} not found: .*roads/{part}/train"):
        load_dataset("folder_roads_train")


@pytest.mark.parametrize("part", ["images", "labels"])
def test_empty_split_folder(folder, part):
    _, val = register_folder(folder)
    for file in (folder / part / "val").iterdir():
        file.unlink()
    (folder / part / "val" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=f"roads/{part}/val holds no {part} .*fill it"):
        load_dataset(val)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_empty_folders_of_splits_that_nobody_needs(folder, part):
    for other in ("images", "labels"):
        (folder / other / "test/.cache").mkdir(parents=True)
    assert register_folder(folder) == ("folder_roads_train", "folder_roads_val")
    add(folder / part / "test/d.png")
    assert register_folder(folder) == ("folder_roads_train", "folder_roads_val")
    with pytest.raises(
        InputError, match=r'_test", which does not exist \(the folder .*roads/.*/test is empty\)'
    ):
        chosen(folder, ("folder_roads_test",))
    for file in (folder / part / "val").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=f"the folder .*roads/{part}/val is empty: add the files"):
        chosen(folder)


def test_images_without_label_are_counted_and_the_first_named(folder):
    for i in range(7):
        add(folder / f"images/val/x{i}.jpg")
    _, val = register_folder(folder)
    with pytest.raises(InputError, match="7 of 8 images") as error:
        load_dataset(val)
    assert "x0.jpg, x1.jpg, x2.jpg, x3.jpg, x4.jpg and 2 more" in str(error.value)
    assert "x5.jpg" not in str(error.value)
    assert str(folder / "labels/val") in str(error.value)


def test_images_without_label_are_named_with_their_folder(folder):
    add(folder / "images/val/city/c.jpg")
    _, val = register_folder(folder)
    with pytest.raises(InputError, match=r"1 of 2 images .*: city/c\.jpg\. Add a label"):
        load_dataset(val)


def test_label_without_image_is_a_warning(folder, caplog):
    add(folder / "labels/val/orphan\nerror: forged.png")
    _, val = register_folder(folder)
    with caplog.at_level(logging.WARNING):
        assert [d["image_id"] for d in load_dataset(val)] == ["c"]
    assert "1 labels" in caplog.text and "orphan\\nerror: forged.png" in caplog.text


def test_two_images_for_one_label(folder):
    add(folder / "images/train/a.png")
    train, _ = register_folder(folder)
    with pytest.raises(InputError, match="are two images of the same name"):
        load_dataset(train)


def test_two_labels_for_one_image(folder):
    add(folder / "labels/train/a.TIF")
    train, _ = register_folder(folder)
    with pytest.raises(InputError, match="are two labels of the same name"):
        load_dataset(train)


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".bmp", ".PNG", ".TIF"])
def test_labels_of_other_formats(folder, suffix):
    (folder / "labels/val/c.png").rename(folder / f"labels/val/c{suffix}")
    (record,) = load_dataset(register_folder(folder)[1])
    assert record["sem_seg_file_name"] == str(folder / f"labels/val/c{suffix}")


def test_a_folder_of_files_that_are_no_labels_says_what_it_holds(folder):
    (folder / "labels/val/c.png").rename(folder / "labels/val/c.jpg")
    with pytest.raises(InputError, match=r"no labels \(.*but other files \(.jpg \(1\)\)"):
        load_dataset(register_folder(folder)[1])


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_composed_and_decomposed_names_are_the_same(folder, forms):
    images, labels = (unicodedata.normalize(form, "é/café") for form in forms)
    add(folder / f"images/val/{images}.jpg")
    add(folder / f"labels/val/{labels}.png")
    _, record = load_dataset(register_folder(folder)[1])
    assert record["image_id"] == unicodedata.normalize("NFC", "é/café")
    assert record["file_name"] == str(folder / f"images/val/{images}.jpg")
    assert record["sem_seg_file_name"] == str(folder / f"labels/val/{labels}.png")


@pytest.mark.parametrize("part", ["images", "labels"])
@pytest.mark.parametrize(
    "name",
    [
        "._c.jpg", ".hidden.png", "Thumbs.db", ".ipynb_checkpoints/c-checkpoint.png",
        "@eaDir/c.png", "__MACOSX/c.png", "$RECYCLE.BIN/c.png", "city/.cache/c.png",
        "System Volume Information/c.png", "@tmp/c.png", "@Recently-Snapshot/c.png",
        "@SynoEAStream/c.png", "~snapshot/c.png", "RECYCLER/c.png", "Temporary Items/c.png",
        "_thumbs/c.png",
    ],
)  # fmt: skip
def test_files_of_the_system_do_not_count(folder, caplog, part, name):
    path = folder / part / "val" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"of the system")
    dicts = pair_images_and_labels(folder / "images/val", folder / "labels/val", remedy="")
    assert [d["image_id"] for d in dicts] == ["c"]
    assert not caplog.records


def test_text_without_points_is_no_cloud(tmp_path, caplog):
    folder = tmp_path / "train"
    (folder / "floor").mkdir(parents=True)
    for cloud in ("a.xyz", "floor/b.txt", "damaged.txt"):
        (folder / cloud).write_text("1,5;2,5;3,5\n" if cloud == "damaged.txt" else "1 2 3\n")
    for text in ("README.txt", "a.txt"):  # the second has the name of a cloud
        (folder / text).write_text("Scans of 3 rooms\n")
    found = [record["image_id"] for record in list_clouds(folder, remedy="")]
    assert found == ["a", "damaged", "floor/b"]
    assert "not used" in caplog.text and str(folder / "README.txt") in caplog.text
    for cloud in ("a.xyz", "floor/b.txt", "damaged.txt"):
        (folder / cloud).unlink()
    with pytest.raises(InputError, match=r"holds no clouds .* but other files \(.txt \(2\)\)"):
        list_clouds(folder, remedy="")


def test_links_in_a_circle_are_refused(folder):
    (folder / "images" / "train" / "again").symlink_to("..")
    register_folder(folder)
    with pytest.raises(InputError, match="train/again leads back to .*/images, which it is in"):
        load_dataset(f"folder_{folder.name}_train")


def test_a_folder_that_leads_to_itself(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="Folder not found: .*loop"):
        register_folder(tmp_path / "loop")


def test_a_folder_that_may_not_be_read_is_not_called_empty(folder, monkeypatch):
    scandir = os.scandir

    def refusing(path):  # as the rights do, but for root
        if str(path).endswith("images/train"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    register_folder(folder)
    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match="images/train of images cannot be read: .*denied"):
        load_dataset(f"folder_{folder.name}_train")


def test_classes_in_a_pipe(folder):
    (folder / "classes.txt").unlink()
    os.mkfifo(folder / "classes.txt")
    with pytest.raises(InputError, match="classes.txt is not a file"):
        register_folder(folder)


# -- DATASETS.TRAIN and DATASETS.TEST


def chosen(folder, test=(), test_is_set=False, train=()):
    cfg = get_cfg()
    add_sar_config(cfg)
    cfg.DATASETS.FOLDER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = str(folder), train, test
    choose_splits(cfg, test_is_set=test_is_set or bool(test))
    return cfg.DATASETS.TRAIN, cfg.DATASETS.TEST


def test_the_validation_split_is_evaluated_by_default(folder):
    assert chosen(folder) == (("folder_roads_train",), ("folder_roads_val",))


def test_another_training_set_is_refused(folder):
    train = ("folder_roads_train",)
    assert chosen(folder, train=train)[0] == train
    for name in ("camvid_train", "folder_roads_tain", "folder_roads_val"):
        with pytest.raises(InputError, match=f'TRAIN names "{name}", but .* "folder_roads_train"'):
            chosen(folder, train=(name,))


def test_no_evaluation_if_none_is_asked_for(folder):
    assert chosen(folder, test_is_set=True) == (("folder_roads_train",), ())


def test_data_sets_that_are_named_stay(folder):
    for part in ("images", "labels"):
        add((folder / part / "test/d").with_suffix(".png"))
    test = ("folder_roads_test", "camvid_val")
    assert chosen(folder, test) == (("folder_roads_train",), test)


@pytest.mark.parametrize("name", ["folder_road_val", "folder_link_val", "roads_val", "val"])
def test_a_name_that_does_not_exist_is_refused_with_those_that_do(folder, tmp_path, name):
    (tmp_path / "link").symlink_to(folder)
    message = f'"{name}", which does not exist: .* are folder_roads_train, folder_roads_val'
    with pytest.raises(InputError, match=message):
        chosen(tmp_path / "link", (name,))


def test_a_split_without_labels_is_refused_if_it_is_named(folder):
    add(folder / "images/test/d.png")
    with pytest.raises(
        InputError, match='_test", which does not exist .the folder .*roads/labels/test'
    ):
        chosen(folder, ("folder_roads_test",))
    assert chosen(folder)[1] == ("folder_roads_val",)


def test_a_folder_without_validation_split_is_not_evaluated(folder, tmp_path, caplog):
    (folder / "images/val").rename(tmp_path / "images")
    with pytest.raises(
        InputError,
        match=r'roads/images/val does not exist: add the files, or set DATASETS.TEST "\(\)"',
    ):
        chosen(folder)
    assert chosen(folder, test_is_set=True)[1] == ()
    (folder / "labels/val").rename(tmp_path / "labels")
    assert chosen(folder)[1] == () and "no validation split" in caplog.text
