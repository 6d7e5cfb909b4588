import unicodedata
from pathlib import Path, PurePosixPath

import pytest

from sar.data.importers.names import innermost_role, plain_name, role_of, split_of, split_of_folders
from sar.data.importers.tree import Tree
from sar.errors import InputError


@pytest.mark.parametrize(
    "path, split, name",
    [
        ("images/train/a.jpg", "train", "a"),
        ("train/images/a.b.jpg", "train", "a.b"),
        ("Valid/a.jpg", "val", "a"),
        ("images/test_set/city/a.jpg", "test", "city/a"),
        ("images_train2017/a.jpg", "train", "a"),
        ("trainannot/a.png", "train", "a"),
        ("leftImg8bit_trainvaltest/leftImg8bit/val/bonn/a.png", "val", "bonn/a"),
        ("train/crash test 3/a.jpg", "train", "crash test 3/a"),
        ("test_track/a.jpg", None, "test_track/a"),
        ("photos of masks/a.jpg", None, "photos of masks/a"),
        ("train/val/a.jpg", "val", "a"),
        ("train.jpg", None, "train"),
    ],
)
def test_splits_and_names(path, split, name):
    assert split_of_folders(PurePosixPath(path)) == split
    assert plain_name(PurePosixPath(path)) == name


def test_splits_of_annotation_files():
    for path, split in (
        ("annotations/instances_val2017.json", "val"), ("a/Training.json", "train"),
        ("valid/_annotations.coco.json", "val"), ("instances_default.json", None),
        ("latest.json", None),
    ):  # fmt: skip
        assert split_of(PurePosixPath(path)) == split


def test_roles():
    for folder, role in (
        ("images", "image"), ("JPEGImages", "image"), ("color_masks", "label"),
        ("train_labels", "label"), ("gtFine_trainvaltest", "label"), ("Labels 2", "label"),
        ("train", None), ("city", None), ("mask factory", None), ("image_labels", "label"),
    ):  # fmt: skip
        assert role_of(folder) == role
    for path, role in (
        ("masks/train/a.png", "label"), ("labels/images/a.png", "image"), ("city/masks.png", None),
    ):  # fmt: skip
        assert innermost_role(PurePosixPath(path)) == role


@pytest.fixture
def tree(tmp_path):
    for name in ("a/x.jpg", "b/x.JPG", "b/c/x.jpg", "y.png", "train/z.jpg", "val/z.jpg",
                 ".hidden/h.jpg", "@eaDir/h.jpg", "notes.txt"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return Tree(tmp_path)


@pytest.mark.parametrize(
    "name, near, found",
    [
        ("a/x.jpg", "f.json", "a/x.jpg"),
        ("C:\\data\\b\\X.jpg", "f.json", "b/x.JPG"),
        ("x.jpg", "a/f.json", "a/x.jpg"),
        ("x.jpg", "b/c/f.json", "b/c/x.jpg"),
        ("http://host/deep/y.png", "f.json", "y.png"),
        ("h.jpg", "f.json", None),
        ("notes.txt", "f.json", None),
        ("", "f.json", None),
    ],
)
def test_images_are_found_by_the_end_of_their_paths(tree, name, near, found):
    result = tree.find_image(name, tree.root / near, "f.json")
    assert result == (found and tree.root / found)


def test_which_image_is_meant(tree):
    near = tree.root / "f.json"
    with pytest.raises(InputError, match=r'f\.json names the image "x\.jpg", which may be'):
        tree.find_image("x.jpg", near, "f.json")
    assert tree.find_image("z.jpg", near, "", split="val") == tree.root / "val/z.jpg"
    assert tree.find_image("z.jpg", near, "", split="test") is None
    exclude = {tree.root / "val/z.jpg"}
    assert tree.find_image("z.jpg", near, "", exclude=exclude) == tree.root / "train/z.jpg"


@pytest.mark.parametrize("near", ["f.json", "masks/f.json", "images/f.json"])
def test_a_mask_is_not_taken_for_its_image(tmp_path, near):
    for name in ("images/x.png", "masks/x.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    tree = Tree(tmp_path)
    assert tree.find_image("x.png", tmp_path / near, "") == tmp_path / "images/x.png"
    assert tree.find_image("x.png", tmp_path / near, "", role="label") == tmp_path / "masks/x.png"
    assert tree.find_image("masks/x.png", tmp_path / near, "") == tmp_path / "masks/x.png"


@pytest.mark.parametrize("name", ["images/é.jpg", "images/é.JPG", "Images/é.jpg"])
def test_names_that_differ_only_in_case(tmp_path, name):
    for folder in ("images", "Images"):
        (tmp_path / folder).mkdir()
        for file in ("é.jpg", "é.JPG"):
            (tmp_path / folder / unicodedata.normalize("NFD", file)).touch()
    if len(Tree(tmp_path).files) < 4:
        pytest.skip("The file system ignores case.")
    found = Tree(tmp_path).find_image(name, tmp_path / "f.json", "")
    assert found == tmp_path / unicodedata.normalize("NFD", name)


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.jpg").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/images").symlink_to(tmp_path / "elsewhere")
    assert Tree(tmp_path / "root").files == [tmp_path / "root/images/a.jpg"]
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "root")
    with pytest.raises(InputError, match="leads back to"):
        Tree(tmp_path / "root")


def test_a_single_file_stands_for_its_folder(tmp_path):
    for name in ("annotations/a.json", "annotations/b.json", "images/x.jpg", "c.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    tree = Tree(tmp_path / "annotations/a.json")
    assert [tree.relative(path).as_posix() for path in tree.files] == [
        "annotations/a.json", "c.xml", "images/x.jpg",
    ]  # fmt: skip
    assert tree.root == Path(tmp_path)
