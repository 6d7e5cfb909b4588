import errno
import logging
import os

import pytest
from PIL import Image

from sar.data.datasets import load_dataset
from sar.data.datasets.folder import (
    default_color,
    pair_images_and_labels,
    read_classes,
    register_folder,
)
from sar.errors import InputError

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
    (folder / "labels/test").rename(tmp_path / "away")
    with pytest.raises(InputError, match="no folder .*roads/labels/test: add it"):
        register_folder(folder)


@pytest.mark.parametrize("num_classes, ignore_label", [(255, 255), (256, 65535)])
def test_ignore_label_goes_with_the_number_of_classes(folder, num_classes, ignore_label):
    (folder / "classes.txt").write_text("\n".join(f"class {i}" for i in range(num_classes)))
    metadata = MetadataCatalog.get(register_folder(folder)[0])
    assert metadata.ignore_label == ignore_label
    assert len({tuple(color) for color in metadata.stuff_colors}) == num_classes


# -- classes.txt


def test_classes_with_colours_comments_and_blank_lines(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(
        b"\xef\xbb\xbf# id 0 follows\r\nroad\r\n\r\nroad marking 250 200 60\r\n"
        b"  pothole\t#C81e28  \r\nlane 2\r\n\xc3\xa9tang\r\n"
    )
    names, colors = read_classes(path)
    assert names == ["road", "road marking", "pothole", "lane 2", "étang"]
    assert colors == [default_color(0), [250, 200, 60], [200, 30, 40], *map(default_color, (3, 4))]


def test_default_colours_are_pascal_vocs():
    expected = [[128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]
    assert [default_color(i) for i in range(5)] == expected
    assert default_color(19) == [0, 64, 128]  # the twentieth, tvmonitor


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", "names no class"),
        ("# nothing\n\n", "names no class"),
        ("road\n\ncar\nroad 1 2 3\n", r'line 4: the class "road" is named on line 1'),
        ("road 10 20 300\n", r'line 1: the colour of "road" is \[10, 20, 300\]'),
        ("road 1 2 " + "9" * 5000, r"line 1: the colour of"),
        (b"r\xe4der\n", "cannot be read .*UTF-8"),
        ("\n".join(map(str, range(65536))), "names 65536 classes"),
    ],
)
def test_wrong_classes_name_the_file(folder, content, expected):
    path = folder / "classes.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=expected) as error:
        register_folder(folder)
    assert str(path) in str(error.value)


# -- what is missing


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*nowhere \(DATASETS\.FOLDER\).*classes\.txt"):
        register_folder(tmp_path / "nowhere")


def test_no_classes(folder):
    (folder / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"roads/classes\.txt is not there"):
        register_folder(folder)


@pytest.mark.parametrize("part", ["images/val", "labels/train"])
def test_missing_split_folder(folder, part):
    (folder / part).rename(folder / "away")
    with pytest.raises(InputError, match=f"no folder .*roads/{part}: add it"):
        register_folder(folder)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_empty_split_folder(folder, part):
    _, val = register_folder(folder)
    for file in (folder / part / "val").iterdir():
        file.unlink()
    (folder / part / "val" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=f"roads/{part}/val holds no {part} .*fill it"):
        load_dataset(val)


def test_images_without_label_are_counted_and_the_first_named(folder):
    for i in range(7):
        add(folder / f"images/val/x{i}.jpg")
    _, val = register_folder(folder)
    with pytest.raises(InputError, match="7 of 8 images") as error:
        load_dataset(val)
    assert "x0.jpg, x1.jpg, x2.jpg, x3.jpg, x4.jpg and 2 more" in str(error.value)
    assert "x5.jpg" not in str(error.value)
    assert str(folder / "labels/val") in str(error.value)


def test_label_without_image_is_a_warning(folder, caplog):
    add(folder / "labels/val/orphan.png")
    _, val = register_folder(folder)
    with caplog.at_level(logging.WARNING):
        assert [d["image_id"] for d in load_dataset(val)] == ["c"]
    assert "1 labels" in caplog.text and "orphan.png" in caplog.text


def test_two_images_for_one_label(folder):
    add(folder / "images/train/a.png")
    train, _ = register_folder(folder)
    with pytest.raises(InputError, match="have the same name"):
        load_dataset(train)


def test_hidden_files_do_not_count(folder):
    (folder / "images/val/._c.jpg").write_bytes(b"of the system")
    dicts = pair_images_and_labels(folder / "images/val", folder / "labels/val", remedy="")
    assert [d["image_id"] for d in dicts] == ["c"]


def test_links_in_a_circle_are_refused(folder):
    (folder / "images" / "train" / "again").symlink_to("..")
    register_folder(folder)
    with pytest.raises(InputError, match="train/again leads back to .*/images, which it is in"):
        load_dataset(f"folder_{folder.name}_train")


def test_a_folder_that_leads_to_itself(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="There is no folder .*loop"):
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
    with pytest.raises(InputError, match="classes.txt is no file"):
        register_folder(folder)
