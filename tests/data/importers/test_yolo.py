import numpy as np
import pytest

from sar.data.importers.run import Request, import_dataset
from sar.data.importers.source import Options
from sar.errors import InputError

from .miniature import NAMES, SIZE, assert_equal, labels, new_scene, run, save, scenes


def line(name, points):
    numbers = [f"{x / SIZE[1]:.6f} {y / SIZE[0]:.6f}" for x, y in points]
    return f"{NAMES.index(name)} {' '.join(numbers)}"


def text(scene):
    return "\n".join(line(*found) for found in scene.polygons()) + "\n"


def smaller_on_top(scene):
    """The scene as Ultralytics draws it."""
    area = {i: (x1 - x0) * (y1 - y0) for i, (_, x0, y0, x1, y1) in enumerate(scene.boxes)}
    scene.truth[:] = ""
    for i in sorted(area, key=lambda i: -area[i]):
        name, x0, y0, x1, y1 = scene.boxes[i]
        scene.truth[y0:y1, x0:x1] = name
    return scene


def export(root, found, images="images/train", labels="labels/train", yaml=""):
    for scene in found:
        save(root / images / f"{scene.name}.jpg", scene.image)
        (root / labels).mkdir(parents=True, exist_ok=True)
        (root / labels / f"{scene.name}.txt").write_text(text(scene))
    (root / "data.yaml").write_text(f"names: {list(NAMES)}\nnc: 3\n{yaml}")
    return root


def test_folders_of_ultralytics_and_of_roboflow(tmp_path):
    for kind in ("images/{}", "{}/images"):
        root = tmp_path / kind[:2]
        train, val = scenes(3, "t"), scenes(2, "v")
        for split, found in (("train", train), ("valid", val)):
            images = kind.format(split)
            export(root, found, images, images.replace("images", "labels"))
        imported = run(root, tmp_path / f"{kind[:2]}_imported")
        assert_equal(imported, map_all(train), "train")
        assert_equal(imported, map_all(val), "val")


def map_all(found):
    return [smaller_on_top(scene) for scene in found]


def test_later_shapes_on_top_if_asked(tmp_path):
    found = scenes()
    root = export(tmp_path / "yolo", found)
    assert_equal(run(root, tmp_path / "mine", options=Options(on_top="later")), found)


def test_folders_of_text_files_are_splits(tmp_path):
    train, val = scenes(3, "t"), scenes(2, "v")
    export(tmp_path / "yolo", train, "images", "labels/train")
    root = export(tmp_path / "yolo", val, "images", "labels/val")
    imported = run(root, tmp_path / "mine")
    assert_equal(imported, map_all(train), "train")
    assert_equal(imported, map_all(val), "val")


def test_lists_and_folders_of_data_yaml_are_splits(tmp_path):
    found = scenes(4)
    root = export(tmp_path / "lists", found, "images", "labels", "train: a.txt\nval: b.txt")
    (root / "a.txt").write_text("./images/a0.jpg\n./images/a1.jpg\n./images/a2.jpg\n")
    (root / "b.txt").write_text("data/images/a3.jpg\n")
    imported = run(root, tmp_path / "mine")
    assert_equal(imported, map_all(found[:3]), "train")
    assert_equal(imported, map_all(found[3:]), "val")
    root = tmp_path / "folders"
    export(root, found[:3], "images/first", "labels/first")
    export(root, found[3:], "images/second", "labels/second",
           "path: .\ntrain: images/first\nval: [images/second]")  # fmt: skip
    imported = run(root, tmp_path / "other")
    assert sorted(imported) == [
        "train/first/a0",
        "train/first/a1",
        "train/first/a2",
        "val/second/a3",
    ]


def test_names_with_numbers_and_a_class_file(tmp_path):
    found = scenes(2)
    root = export(tmp_path / "yolo", found)
    (root / "data.yaml").write_text("names: {0: gravel, 1: kerb, 2: bollard}")
    assert_equal(run(root, tmp_path / "a"), map_all(found))
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("\n".join(NAMES))
    assert_equal(run(root, tmp_path / "b"), map_all(found))


def test_classes_that_numpy_wrote_as_floats(tmp_path):
    found = scenes(2)
    root = export(tmp_path / "yolo", found)
    for scene in found:
        lines = [f"{line[0]}.000e+00{line[1:]}" for line in text(scene).splitlines()]
        (root / f"labels/train/{scene.name}.txt").write_text("\n".join(lines))
    assert_equal(run(root, tmp_path / "mine"), map_all(found))
    (root / "labels/train/a1.txt").write_text("1.5 .1 .1 .2 .1 .2 .2\n")
    with pytest.raises(InputError, match=r"a1\.txt, line 1: the class 1\.5 is not among the 3 "):
        run(root, tmp_path / "other")


def test_boxes_and_images_without_a_file(tmp_path, capsys):
    found = scenes(3)
    root = export(tmp_path / "yolo", found)
    (root / "labels/train/a1.txt").write_text("1 0.5 0.5 0.2 0.2\n\n")
    (root / "labels/train/a2.txt").unlink()
    (root / "labels/train/a9.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    import_dataset(Request(root, tmp_path / "mine"))
    out = capsys.readouterr().out
    assert "1 x box without outline, which has no area (kerb 1)" in out
    assert "1 text files without an image" in out and "1 images without a text file" in out
    assert "2 images have no shape and were left out; with --keep-empty" in out
    assert [path.name for path in (tmp_path / "mine/images/train").iterdir()] == ["a0.jpg"]
    imported = run(root, tmp_path / "kept", keep_empty=True)
    for empty in ("train/a1", "train/a2"):
        np.testing.assert_array_equal(imported[empty], np.full(SIZE, "background"))


def test_two_text_files_of_one_name(tmp_path):
    root = export(tmp_path / "yolo", scenes(2))
    (root / "train/labels").mkdir(parents=True)
    (root / "train/labels/a0.txt").write_text("0 .1 .1 .2 .1 .2 .2\n")
    with pytest.raises(InputError, match=r"labels/train/a0\.txt and .* are two text files of the"):
        run(root, tmp_path / "mine")


def test_a_text_file_of_another_split_is_not_taken(tmp_path):
    for split in ("train", "valid"):
        export(tmp_path / "yolo", scenes(2), f"{split}/images", f"{split}/labels")
    (tmp_path / "yolo/train/labels/a0.txt").unlink()
    imported = run(tmp_path / "yolo", tmp_path / "mine")
    assert sorted(imported) == ["train/a1", "val/a0", "val/a1"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("0 .1 .1 .2 .1 .2 .2\n3 .1 .1 .2 .1 .2 .2", r"a0\.txt, line 2: the class 3 .*0 to 2"),
        ("0 .1 .1 .2 .1 .2", r"line 1: expected pairs of x and y, found 5"),
        ("kerb .1 .1 .2 .1 .2 .2", r'line 1: expected numbers .* "kerb'),
        ("0 10 10 200 10 20 20", r"line 1 \(polygon of \"gravel\"\): .*lies far outside"),
        ("0 nan .1 .2 .1 .2 .2", "line 1 .*far outside"),
        ("0", r"line 1 .*not a list of x and y"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, content, message):
    root = export(tmp_path / "yolo", [new_scene("a0")])
    (root / "labels/train/a0.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        run(root, tmp_path / "mine")


def test_class_files_that_are_wrong(tmp_path):
    root = export(tmp_path / "yolo", [new_scene("a0")])
    (root / "other.yaml").write_text("names: [x]")
    with pytest.raises(InputError, match=r"Expected one data\.yaml .* found .*data.yaml, .*other"):
        run(root, tmp_path / "mine")
    (root / "other.yaml").unlink()
    for names in ("kerb", "{a: b}", "[]"):
        (root / "data.yaml").write_text(f"names: {names}")
        with pytest.raises(InputError, match=r"data\.yaml: names must be"):
            run(root, tmp_path / "mine", format="yolo")
    (root / "data.yaml").write_text("names: [\n")
    with pytest.raises(InputError, match=r"data\.yaml cannot be read as YAML"):
        run(root, tmp_path / "mine")


@pytest.mark.parametrize("start", ["", "/home/me/data/", "C:\\\\Users\\\\me\\\\data\\\\", "../"])
def test_folders_of_splits_that_start_elsewhere(tmp_path, start):
    train, val = scenes(3, "t"), scenes(2, "v")
    yaml = f'path: data\ntrain: "{start}setA/images"\nval: "{start}setB/images"\n'
    for found, folder in ((train, "setA"), (val, "setB")):
        export(tmp_path / "yolo", found, f"data/{folder}/images", f"data/{folder}/labels", yaml)
    imported = run(tmp_path / "yolo", tmp_path / "mine")
    assert {key for key in imported if key.startswith("val/")} == {
        f"val/data/setB/{scene.name}" for scene in val
    }


def test_splits_that_are_nowhere_are_named(tmp_path, capsys):
    export(tmp_path / "yolo", scenes(4), "images", "labels", "train: a/x\nval: a/y\n")
    import_dataset(Request(tmp_path / "yolo", tmp_path / "mine"))
    assert "data.yaml names splits, but none of its folders" in capsys.readouterr().out


def test_a_folder_of_two_splits_is_of_none(tmp_path, capsys):
    export(tmp_path / "yolo", scenes(10), "images", "labels", "train: images\nval: images\n")
    import_dataset(Request(tmp_path / "yolo", tmp_path / "mine"))
    assert "data.yaml names images for several splits" in capsys.readouterr().out
    found = [key.split("/")[0] for key in labels(tmp_path / "mine")]
    assert (found.count("train"), found.count("val")) == (8, 2)


def test_classes_need_a_name(tmp_path):
    root = export(tmp_path / "yolo", scenes())
    (root / "data.yaml").write_text("names: [gravel, kerb, '']\n")
    with pytest.raises(InputError, match="A class .number 2. has no name"):
        run(root, tmp_path / "mine")


def test_a_picture_without_a_text_file_is_not_of_the_data_set(tmp_path, capsys):
    root = export(tmp_path / "yolo", scenes())
    save(root / "preview.png", new_scene("b").image)
    import_dataset(Request(root, tmp_path / "mine"))
    assert set(labels(tmp_path / "mine")) == {"train/a0", "train/a1", "train/a2"}
    assert "1 images without a text file: " in capsys.readouterr().out


@pytest.mark.parametrize("masks", ["masks/train", "labels/train", "masks"])
def test_masks_next_to_the_text_files_are_not_images(tmp_path, capsys, masks):
    found = scenes()
    root = export(tmp_path / "yolo", found)
    for scene in found:
        save(root / masks / f"{scene.name}.png", scene.ids())
    import_dataset(Request(root, tmp_path / "mine"))
    assert_equal(labels(tmp_path / "mine"), map_all(found))
    note = "3 pictures in folders of labels or masks were not taken as images: "
    assert note in capsys.readouterr().out


def test_images_may_lie_next_to_the_text_files(tmp_path):
    found = scenes()
    root = export(tmp_path / "yolo", found, "labels/train", "labels/train")
    assert_equal(run(root, tmp_path / "mine"), map_all(found))


def test_images_that_are_left_out_may_be_all_of_training(tmp_path):
    root = export(tmp_path / "yolo", scenes(2, "v"), "images/val", "labels/val")
    export(root, scenes(2, "t"))
    for path in (root / "labels/train").iterdir():
        path.write_text("")
    with pytest.raises(InputError, match="has no training images, only val"):
        run(root, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
