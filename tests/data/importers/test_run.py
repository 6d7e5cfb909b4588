"""What all formats share: splits, classes, orientation, names, and the files of the user."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from sar.data.importers import run as run_module
from sar.data.importers import writer
from sar.data.importers.run import Request, import_dataset
from sar.data.importers.source import Options
from sar.data.label_files import read_label
from sar.errors import InputError

from .miniature import (
    NAMES,
    SIZE,
    assert_equal,
    full_scene,
    new_scene,
    run,
    save,
    scenes,
    write_json,
)
from .test_labelme import content, polygon
from .test_labelme import export as labelme
from .test_masks import as_ids
from .test_masks import export as masks


def contents(folder):
    return {
        path: (path.read_bytes(), path.lstat().st_mtime_ns, path.is_symlink())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def oriented(path, image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(path, image, exif=exif)


TURNS = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
    5: lambda a: a.T, 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T,
    8: lambda a: np.rot90(a, 1),
}  # fmt: skip


@pytest.mark.parametrize(
    "orientation, suffix", [*((number, "jpg") for number in range(1, 9)), (6, "png"), (5, "tif")]
)
def test_labels_fit_the_upright_image(tmp_path, orientation, suffix, capsys):
    """A tool that shows the upright image, and one that shows the stored pixels."""
    found = full_scene("a0")
    for name, as_stored in (("upright", False), ("stored", True)):
        root = tmp_path / name
        oriented(root / f"images/train/a0.{suffix}", found.image, orientation)
        ids = found.ids() if as_stored else np.ascontiguousarray(TURNS[orientation](found.ids()))
        save(root / "labels/train/a0.png", ids)
        (root / "classes.txt").write_text("\n".join(NAMES))
        import_dataset(Request(root, tmp_path / f"{name}_imported"))
        label = read_label(tmp_path / f"{name}_imported/labels/train/a0.png")
        is_known = not as_stored or orientation in (1, 5, 6, 7, 8)
        expected = TURNS[orientation](found.ids()) if is_known else ids
        np.testing.assert_array_equal(label, expected)
        doubtful = "EXIF orientation that keeps their size" in capsys.readouterr().out
        assert doubtful == (orientation in (2, 3, 4))


def test_shapes_of_a_turned_image(tmp_path):
    found = new_scene("a0")
    oriented(tmp_path / "labelme/a0.jpg", found.image.transpose(Image.Transpose.ROTATE_90), 6)
    write_json(tmp_path / "labelme/a0.json", content(found))
    assert_equal(run(tmp_path / "labelme", tmp_path / "mine"), [found])


def test_sizes_that_differ(tmp_path):
    root = masks(tmp_path / "masks", [full_scene("a0")], as_ids)
    (root / "classes.txt").write_text("\n".join(NAMES))
    save(root / "labels/train/a0.png", full_scene("a0").ids()[:, :-1])
    with pytest.raises(InputError, match=r"a0\.jpg has 44 x 30 pixels, but its label has 43 x 30"):
        run(root, tmp_path / "mine")


def test_rare_classes_are_in_every_split(tmp_path, capsys):
    found = [new_scene(f"a{i}", i, names=("gravel", "kerb")) for i in range(20)]
    found[7], found[12] = new_scene("a7", 7), new_scene("a12", 12)
    root = labelme(tmp_path / "labelme", found)
    imported = run(root, tmp_path / "mine")
    for split, number in (("train", 16), ("val", 4)):
        of_split = {key: label for key, label in imported.items() if key.startswith(split)}
        assert len(of_split) == number
        assert any("bollard" in label for label in of_split.values())
    assert {key.split("/")[1] for key in imported} == {s.name for s in found}
    assert run(root, tmp_path / "again").keys() == imported.keys()
    assert run(root, tmp_path / "other", seed=1).keys() != imported.keys()
    import_dataset(Request(root, tmp_path / "x", dry_run=True, shares=(1, 1, 1)))
    assert "20 images were divided 1:1:1. Too few show some classes: test lacks bollard." in (
        capsys.readouterr().out
    )


def test_groups_stay_together(tmp_path, capsys):
    found = [new_scene(f"video{i // 4}_{i}", i) for i in range(20)]
    root = labelme(tmp_path / "labelme", found)
    for pattern in (r"video\d+", r"^(video\d+)_"):
        output = tmp_path / f"mine{len(pattern)}"
        imported = run(root, output, group=re.compile(pattern))
        splits = {}
        for key in imported:
            split, name = key.split("/")
            splits.setdefault(name.split("_")[0], set()).add(split)
        assert sorted(map(len, splits.values())) == [1] * 5
        assert {split for of_group in splits.values() for split in of_group} == {"train", "val"}
        (group,) = (name for name, of_group in splits.items() if of_group == {"val"})
        request = Request(root, tmp_path / "x", dry_run=True, group=re.compile(pattern))
        import_dataset(request)
        said = f"5 groups of images were divided 80:20 (val: 20% of the images, {group})"
        assert said in capsys.readouterr().out
    with pytest.raises(
        InputError, match=r'--group "clip" is not found in the path video0_0\.jpg, which begins '
    ):
        run(root, tmp_path / "other", group=re.compile("clip"))


def test_groups_are_searched_below_the_source(tmp_path):
    """The folder video_7 of the source is no group of all images."""
    root = labelme(tmp_path / "video_7", [new_scene(f"video_{i // 2}_{i}", i) for i in range(4)])
    group = re.compile("video_[0-9]+")
    imported = run(root, tmp_path / "a", group=group, shares=(1, 1))
    assert {key.split("/")[0] for key in imported} == {"train", "val"}
    (tmp_path / "video_9").mkdir()
    for image in root.glob("*.jpg"):
        image.rename(tmp_path / "video_9" / image.name)
    options = Options(images=tmp_path / "video_9")
    again = run(root, tmp_path / "b", group=group, shares=(1, 1), options=options)
    assert again.keys() == imported.keys()
    few = r"2 groups of images \(video_0, video_1\), but 2:1:1 needs at least 3"
    with pytest.raises(InputError, match=few):
        run(root, tmp_path / "c", group=group, shares=(2, 1, 1), options=options)


def test_splits_of_the_source(tmp_path):
    labelme(tmp_path / "labelme/train", scenes(3))
    labelme(tmp_path / "labelme/other", scenes(2))
    with pytest.raises(InputError, match=r"2 of 5 images have no split.*--split 80:20"):
        run(tmp_path / "labelme", tmp_path / "mine")
    assert len(run(tmp_path / "labelme", tmp_path / "mine", shares=[3, 1])) == 5
    labelme(tmp_path / "val only/val", scenes(3))
    with pytest.raises(InputError, match="no training images, only val"):
        run(tmp_path / "val only", tmp_path / "other")
    labelme(tmp_path / "given/train", scenes(3))
    with pytest.raises(
        InputError, match="The source has splits. To divide by --group, add --split"
    ):
        run(tmp_path / "given", tmp_path / "other", group=re.compile("a"))


def test_names_that_collide_get_numbers(tmp_path, capsys):
    for folder, seed in (("train/images", 0), ("train/photos", 1), ("train/Images", 2)):
        labelme(
            tmp_path / "labelme" / folder, [new_scene("a0", seed), new_scene("a0_2", seed + 10)]
        )
    import_dataset(Request(tmp_path / "labelme", tmp_path / "mine"))
    names = sorted(path.stem for path in (tmp_path / "mine/labels/train").iterdir())
    assert names == ["a0", "a0_2", "a0_2_2", "a0_2_3", "a0_3", "a0_4"]
    out = capsys.readouterr().out
    assert "4 images have a name that another image of their split has." in out
    for name in names:
        assert (tmp_path / f"mine/images/train/{name}.jpg").is_file()


@pytest.mark.parametrize(
    "options, names, expected",
    [
        ({"renamed": [("kerb", "edge")]}, "background bollard gravel edge", {"kerb": "edge"}),
        ({"renamed": [("kerb", "stone"), ("gravel", "stone")]}, "background bollard stone",
         {"kerb": "stone", "gravel": "stone"}),
        ({"renamed": [("kerb", "background")]}, "bollard gravel background",
         {"kerb": "background"}),
        ({"ignore": ["kerb", "bollard"]}, "background gravel",
         {"kerb": "ignored", "bollard": "ignored"}),
    ],
)  # fmt: skip
def test_classes_are_renamed_merged_and_ignored(tmp_path, options, names, expected):
    found = scenes()
    imported = run(
        labelme(tmp_path / "x", found), tmp_path / "mine", options=Options(**options), shares=[1]
    )
    for scene in found:
        for old, new in expected.items():
            scene.truth[scene.truth == old] = new
    assert_equal(imported, found)
    assert (tmp_path / "mine/classes.txt").read_text().split() == names.split()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"renamed": [("kreb", "edge")]}, r'--map names the class "kreb", .*Did you mean "kerb"'),
        ({"ignore": ["9"]}, r'--ignore names the class "9"'),
        ({"ignore": ["kerb"], "renamed": [("kerb", "x")]}, '"kerb" is in --ignore and in --map'),
        ({"ignore": list(NAMES)}, "No class remains"),
        ({"renamed": [("kerb", "3: x")]}, "cannot be written to classes.txt"),
    ],
)  # fmt: skip
def test_options_that_fit_no_class(tmp_path, options, message):
    root = labelme(tmp_path / "x", scenes())
    with pytest.raises(InputError, match=message):
        run(root, tmp_path / "mine", options=Options(**options), background="ignore")
    assert not (tmp_path / "mine").exists()


def test_one_class_alone_is_reported(tmp_path, capsys):
    root = labelme(tmp_path / "x", [new_scene("a0", names=["kerb"])])
    import_dataset(Request(root, tmp_path / "mine", background="ignore", dry_run=True))
    assert '"kerb" is the only class, and' in capsys.readouterr().out
    import_dataset(Request(root, tmp_path / "mine", dry_run=True))
    assert "is the only class" not in capsys.readouterr().out


def test_merged_classes_do_not_cover_each_other(tmp_path, capsys):
    shapes = [
        polygon("car", [[0, 0], [20, 0], [20, 20], [0, 20]]),
        polygon("truck", [[0, 0], [20, 0], [20, 10], [0, 10]]),
        polygon("sign", [[0, 0], [10, 0], [10, 10], [0, 10]]),
    ]
    root = labelme(tmp_path / "x", [new_scene("a0")])
    write_json(root / "a0.json", content(new_scene("a0"), shapes=shapes))
    options = Options(renamed=[("car", "vehicle"), ("truck", "vehicle")])
    import_dataset(Request(root, tmp_path / "mine", options=options, dry_run=True))
    assert re.search(r" vehicle .* 2 +25\.0%\n", capsys.readouterr().out)


def test_images_that_are_left_out_do_not_count_in_the_shares(tmp_path, capsys):
    found = [new_scene("a0", num_boxes=0), new_scene("a1"), full_scene("a2")]
    root = labelme(tmp_path / "x", found)
    line = polygon("kerb", [[1, 1], [2, 2]]) | {"shape_type": "line"}
    write_json(root / "a0.json", content(found[0], shapes=[line]))
    import_dataset(Request(root, tmp_path / "mine", background="ignore", dry_run=True))
    out = capsys.readouterr().out
    unlabelled = 100 * (found[1].truth == "").sum() / found[1].truth.size / 2
    assert f"{unlabelled:.1f}% of the pixels are in no shape. They are ignored." in out
    assert re.search(rf"\(ignored\) .* {unlabelled:.1f}%", out)
    assert "Left out: 1 x line, which has no area (kerb 1)." in out


def test_the_source_never_changes_and_links_point_to_it(tmp_path):
    root = labelme(tmp_path / "x", scenes())
    before = contents(root)
    run(root, tmp_path / "linked", link=True)
    image = next((tmp_path / "linked/images/train").iterdir())
    assert image.is_symlink() and image.resolve().parent == root.resolve()
    run(root, tmp_path / "mine")
    assert not any(path.is_symlink() for path in (tmp_path / "mine").rglob("*"))
    assert contents(root) == before
    for output in (root, root / "inside", tmp_path):
        with pytest.raises(InputError, match="inside each other"):
            run(root, output)
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(InputError, match="inside each other"):
        run(root, tmp_path / "link" / "mine")
    assert contents(root) == before


def test_files_of_the_user_stay(tmp_path):
    root = labelme(tmp_path / "x", scenes())
    theirs = tmp_path / "mine/notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("the user's")
    with pytest.raises(InputError, match="has files of another origin, such as notes.txt"):
        run(root, tmp_path / "mine")
    assert [path for path, *_ in contents(tmp_path / "mine").items()] == [theirs]
    run(root, tmp_path / "own")
    with pytest.raises(InputError, match="lies in the data set"):
        run(root, tmp_path / "own" / "images" / "inside")
    # A label that the user corrected is kept.
    label = next((tmp_path / "own/labels/train").iterdir())
    save(label, np.zeros(SIZE, np.uint8))
    before = contents(tmp_path / "own")
    run(root, tmp_path / "own")
    after = contents(tmp_path / "own")
    assert after[label] == before[label]


def test_another_import_is_not_mixed_in(tmp_path):
    root = labelme(tmp_path / "x", scenes())
    run(root, tmp_path / "mine")
    before = contents(tmp_path / "mine")
    with pytest.raises(InputError, match=r"import\.json is from an import with other options"):
        run(root, tmp_path / "mine", background="ignore")
    labelme(root, scenes(4))
    with pytest.raises(InputError, match=r"or of a source that has changed since"):
        run(root, tmp_path / "mine")
    assert contents(tmp_path / "mine") == before
    (tmp_path / "mine/import.json").write_text("{")
    with pytest.raises(InputError, match=r"import\.json cannot be read"):
        run(root, tmp_path / "mine")


def test_a_stopped_import_continues(tmp_path, monkeypatch):
    root = labelme(tmp_path / "x", scenes(6))
    run(root, tmp_path / "whole")
    write_label, calls = writer.write_label, []

    def stop_at_the_fourth(ids, target):
        calls.append(target)
        if len(calls) == 4:
            raise KeyboardInterrupt
        write_label(ids, target)

    monkeypatch.setattr(writer, "write_label", stop_at_the_fourth)
    monkeypatch.setattr(writer, "NUM_THREADS", 1)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "mine")
    assert not (tmp_path / "mine/classes.txt").exists()
    assert (tmp_path / "mine/import.json").exists()
    monkeypatch.setattr(writer, "write_label", write_label)
    done = contents(tmp_path / "mine")
    run(root, tmp_path / "mine")
    after = contents(tmp_path / "mine")
    assert {path: after[path] for path in done if path.suffix != ".json"} == {
        path: value for path, value in done.items() if path.suffix != ".json"
    }
    relative = {path.relative_to(tmp_path / "mine"): value[0] for path, value in after.items()}
    whole = contents(tmp_path / "whole").items()
    assert relative == {path.relative_to(tmp_path / "whole"): value[0] for path, value in whole}


def test_a_dry_run_writes_nothing_and_checks_everything(tmp_path, monkeypatch, capsys):
    root = labelme(tmp_path / "x", scenes(6))
    monkeypatch.setattr(run_module, "write", None)
    before = set(os.listdir(tmp_path))
    import_dataset(Request(root, tmp_path / "mine", dry_run=True))
    assert set(os.listdir(tmp_path)) == before
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "Format: labelme. 6 images were divided 80:20, with each class in each split."
    )
    assert re.split(" {2,}", lines[1].strip()) == [
        "id", "class", "train images", "val images", "pixels", "shapes", "covered",
    ]  # fmt: skip
    found = scenes(6)
    rows = {words[1]: words for line in lines[3:] if len(words := line.split()) >= 7}
    for name in NAMES:
        pixels = sum((s.truth == name).sum() for s in found) / (6 * SIZE[0] * SIZE[1])
        assert float(rows[name][4].rstrip("%")) == pytest.approx(100 * pixels, abs=0.051)
        shown = sum(name in s.truth for s in found)
        assert int(rows[name][2]) + int(rows[name][3]) == shown
        assert int(rows[name][5]) == sum(box[0] == name for s in found for box in s.boxes)


def test_formats_that_cannot_be_told_apart(tmp_path):
    root = labelme(tmp_path / "x", scenes(2))
    (root / "labels").mkdir()
    (root / "labels/a0.txt").write_text("0 .1 .1 .2 .1 .2 .2\n")
    (root / "data.yaml").write_text("names: [kerb]")
    with pytest.raises(InputError) as error:
        run(root, tmp_path / "mine")
    first, *others = str(error.value).split("\n")
    assert "may be in 2 formats. Choose one with --format:" in first
    assert others[0].startswith("  --format labelme: ") and others[1].startswith(
        "  --format yolo: "
    )
    assert len(run(root, tmp_path / "mine", format="labelme")) == 2
    with pytest.raises(InputError, match='--format names "labelmee".*Did you mean "labelme"'):
        run(root, tmp_path / "other", format="labelmee")


@pytest.mark.parametrize("name, mask", [("labels", "gold/{}.png"), ("label_suffix", "{}_gold.png")])
def test_options_of_masks_choose_masks(tmp_path, name, mask):
    """Files of another format may be there, too: the user does not want their shapes."""
    root = labelme(tmp_path / "x", scenes(2))
    found = [full_scene("a0", 5), full_scene("a1", 6)]
    for scene in found:
        save(root / mask.format(scene.name), as_ids(scene))
    value = {"labels": root / "gold", "label_suffix": "_gold"}[name]
    renamed = [(str(i), class_name) for i, class_name in enumerate(NAMES)]
    options = Options(**{name: value}, renamed=renamed)
    assert_equal(run(root, tmp_path / "mine", options=options, shares=[1]), found)
    with pytest.raises(InputError, match="belong to --format masks, not to --format labelme"):
        run(root, tmp_path / "other", options=options, format="labelme")


def test_sources_that_are_none(tmp_path):
    with pytest.raises(InputError, match="x does not exist"):
        run(tmp_path / "x", tmp_path / "mine")
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(InputError, match="x.zip is an archive: unpack it"):
        run(tmp_path / "x.zip", tmp_path / "mine")
    (tmp_path / "x").mkdir()
    with pytest.raises(
        InputError, match="in no format that is recognized. Expected one of coco, cvat"
    ):
        run(tmp_path / "x", tmp_path / "mine")
    save(tmp_path / "x/a.jpg", new_scene("a").image)
    write_json(tmp_path / "x/a.json", content(new_scene("a"), shapes=[]))
    with pytest.raises(InputError, match="No image has a shape that covers a pixel"):
        run(tmp_path / "x", tmp_path / "mine")


def test_the_data_set_can_be_trained_on(tmp_path):
    from sar.data.datasets.folder import register_folder

    from detectron2.data import DatasetCatalog, MetadataCatalog

    root = labelme(tmp_path / "x", scenes(6))
    run(root, tmp_path / "mine")
    train, val = register_folder(tmp_path / "mine")
    assert len(DatasetCatalog.get(train)) == 5 and len(DatasetCatalog.get(val)) == 1
    assert MetadataCatalog.get(train).stuff_classes == ["background", "bollard", "gravel", "kerb"]
    record = json.loads((tmp_path / "mine/import.json").read_text())
    assert record["format"] == "labelme" and record["source"] == str(root)


def test_other_image_formats_are_converted(tmp_path):
    found = scenes(2)
    root = labelme(tmp_path / "x", found)
    for scene, suffix, format in zip(found, (".webp", ".jfif"), ("WEBP", "JPEG"), strict=True):
        (root / f"{scene.name}.jpg").unlink()
        save(root / f"{scene.name}{suffix}", scene.image, format=format)
        changes = {"imagePath": f"{scene.name}{suffix}"}
        write_json(root / f"{scene.name}.json", content(scene, **changes))
    assert_equal(run(root, tmp_path / "mine", shares=[1], link=True), found)
    png, jpg = tmp_path / "mine/images/train/a0.png", tmp_path / "mine/images/train/a1.jpg"
    with Image.open(png) as written, Image.open(root / "a0.webp") as read:
        np.testing.assert_array_equal(np.array(written), np.array(read.convert("RGB")))
    assert jpg.read_bytes() == (root / "a1.jfif").read_bytes()
