"""The programs tools/prepare_*.py on miniature copies of the official layouts."""

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from sar.data import preparation
from sar.data.datasets import ade20k_full, coco_stuff, load_dataset, pascal_context
from sar.data.label_files import read_label
from sar.errors import InputError

from detectron2.data import MetadataCatalog

from ..programs import load_program

TOOLS = Path(__file__).parents[2] / "tools"
NAMES = ("pascal_context", "coco_stuff", "ade20k", "ade20k_full", "cityscapes")
COUNTS = {"train": 3, "val": 2}


def load_tool(name):
    return load_program(TOOLS / f"prepare_{name}.py")


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


@pytest.fixture
def voc(root):
    """VOC2010 with five annotated images and one that is not."""
    folder = root / "VOCdevkit" / "VOC2010"
    images, segments = [], []
    for index, phase in enumerate(["train"] * 3 + ["val"] * 2):
        name = f"2008_{index:06d}.jpg"
        save(np.zeros((6, 8, 3)), folder / "JPEGImages" / name)
        image = {"image_id": 2008000000 + index, "file_name": name, "phase": phase}
        images.append(image | {"height": 6, "width": 8})
        for category, rows in ((284, slice(0, 2)), (397, slice(2, 4)), (0, slice(4, 5))):
            mask = np.zeros((6, 8), np.uint8, order="F")
            mask[rows] = 1
            rle = mask_util.encode(mask)
            segments.append(
                {
                    "id": len(segments),
                    "image_id": image["image_id"],
                    "category_id": category,
                    "segmentation": rle | {"counts": rle["counts"].decode()},
                }
            )
    save(np.zeros((6, 8, 3)), folder / "JPEGImages" / "2009_000000.jpg")
    data = {"images": images, "annos_segmentation": segments}
    (folder / "trainval_merged.json").write_text(json.dumps(data))
    return folder


@pytest.fixture
def coco(root):
    folder = root / "coco"
    for split, number in COUNTS.items():
        for i in range(number):
            save(np.zeros((2, 4, 3)), folder / f"{split}2017" / f"{i:012d}.jpg")
            ids = [[0, 89, 91, 181], [255, 12, 66, 90 - 1]]
            save(ids, folder / "stuffthingmaps" / f"{split}2017" / f"{i:012d}.png")
    return folder


@pytest.fixture
def ade(root):
    folder = root / "ADEChallengeData2016"
    for split, number in (("training", 3), ("validation", 2)):
        for i in range(number):
            save(np.zeros((2, 2, 3)), folder / "images" / split / f"{i}.jpg")
            save([[0, 1], [150, 2]], folder / "annotations" / split / f"{i}.png")
    return folder


@pytest.fixture
def cityscapes(root):
    folder = root / "cityscapes"
    for split, number in COUNTS.items():
        for i in range(number):
            stem = f"city_{i:06d}_000019"
            image = folder / "leftImg8bit" / split / "city" / f"{stem}_leftImg8bit.png"
            save(np.zeros((2, 17, 3)), image)
            label = folder / "gtFine" / split / "city" / f"{stem}_gtFine_labelIds.png"
            save(np.arange(34).reshape(2, 17), label)
    return folder


ADE_NAMES = {5: "sky", 300: "wall", 2978: "lamp, light", 40: "only in training"}


def add_ade_full_image(folder, split, index, size, ids):
    """An image of ADE20K: a band of rows for each index, and one that is unlabelled."""
    long = {"train": "training", "val": "validation"}[split]
    path = folder / "images/ADE" / long / "urban" / "street" / f"ADE_{split}_{index:08d}.jpg"
    width, height = size
    save(np.full((height, width, 3), 90), path)
    seg = np.zeros((height, width, 3), np.uint8)
    for band, i in zip(np.array_split(np.arange(height), len(ids) + 1), ids, strict=False):
        seg[band] = (i // 256 * 10, i % 256, 7)
    save(seg, path.with_name(f"{path.stem}_seg.png"))
    save(np.zeros((height, width, 3)), path.with_name(f"{path.stem}_parts_1.png"))
    save(np.zeros((height, width)), path.with_suffix("") / f"instance_000_{path.stem}.png")
    objects = [{"name_ndx": i, "name": name} for i, name in ADE_NAMES.items()]
    path.with_suffix(".json").write_text(json.dumps({"annotation": {"object": objects}}))
    return path


@pytest.fixture
def ade_full(root):
    folder = root / "ADE20K_2021_17_01"
    for index in range(3):
        add_ade_full_image(folder, "train", index, (40, 30), [5, 40, 2978])
    add_ade_full_image(folder, "val", 0, (40, 30), [5])
    add_ade_full_image(folder, "val", 1, (1201, 600), [2978, 300])
    return folder


def run_ade_full(tool, folder, **options):
    tool.prepare_ade20k_full(folder, 2, num_images=COUNTS, **({"num_classes": 2} | options))


def test_pascal_context(voc):
    tool = load_tool("pascal_context")
    tool.prepare_pascal_context(voc, 2, COUNTS)
    train, val = (load_dataset(f"pascal_context_{split}") for split in ("train", "val"))
    assert [d["image_id"] for d in train] == ["2008_000000", "2008_000001", "2008_000002"]
    assert [d["image_id"] for d in val] == ["2008_000003", "2008_000004"]
    assert train[0]["file_name"] == str(voc / "JPEGImages/2008_000000.jpg")
    label = read_label(train[0]["sem_seg_file_name"])
    classes = pascal_context.CLASSES
    assert label.shape == (6, 8)
    assert (label[:2] == classes.index("person")).all()
    assert (label[2:4] == classes.index("table")).all()
    assert (label[4:] == 255).all()  # background, and what has no segment


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"category_id": 3}, "category 3"),
        ({"segmentation": mask_util.encode(np.zeros((5, 8), np.uint8, order="F"))}, "8 x 5"),
    ],
)
def test_pascal_context_with_a_wrong_segment(voc, change, expected):
    path = voc / "trainval_merged.json"
    data = json.loads(path.read_text())
    if "segmentation" in change:
        counts = change["segmentation"]["counts"].decode()
        change = {"segmentation": change["segmentation"] | {"counts": counts}}
    data["annos_segmentation"][0].update(change)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=rf"1 of 3 files.*\n  2008_000000.jpg.*{expected}"):
        load_tool("pascal_context").prepare_pascal_context(voc, 1, COUNTS)
    assert len(list(voc.rglob("SegmentationClassContext59/train/*.png"))) == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_pascal_context_with_a_damaged_json(voc, text):
    (voc / "trainval_merged.json").write_text(text)
    with pytest.raises(InputError, match="trainval_merged.json cannot be read"):
        load_tool("pascal_context").prepare_pascal_context(voc, 1, COUNTS)


def test_coco_stuff(coco, caplog):
    tool = load_tool("coco_stuff")
    tool.prepare_coco_stuff(coco, 2, COUNTS)
    assert "coco_stuff_lt_train cannot be used" in caplog.text
    assert len(load_dataset("coco_stuff_train")) == 3
    (record, _) = load_dataset("coco_stuff_val")
    label = read_label(record["sem_seg_file_name"])
    index = coco_stuff.CLASSES.index
    expected = [
        [index("person"), index("toothbrush"), index("banner"), index("wood")],
        [255, index("stop sign"), index("dining table"), index("toothbrush")],
    ]
    np.testing.assert_array_equal(label, expected)

    (coco / "coco-stuff-lt.txt").write_text("000000000002.jpg\n000000000000.jpg\n")
    tool.prepare_coco_stuff(coco, 2, COUNTS, num_lt_images=2)
    names = [record["image_id"] for record in load_dataset("coco_stuff_lt_train")]
    assert names == ["000000000000", "000000000002"]
    with pytest.raises(InputError, match="2 found, 40679 expected"):
        tool.prepare_coco_stuff(coco, 2, COUNTS)


def test_coco_stuff_with_an_id_of_a_thing_that_is_not_shown(coco):
    save([[11]], coco / "stuffthingmaps/train2017/000000000001.png")  # street sign
    with pytest.raises(InputError, match=r"000000000001.png has the ids 11 \(1 pixels\)"):
        load_tool("coco_stuff").prepare_coco_stuff(coco, 1, COUNTS)
    assert len(list((coco / "coco_stuff_171/train2017").iterdir())) == 2


def test_ade20k(ade):
    counts = {"training": 3, "validation": 2}
    load_tool("ade20k").prepare_ade20k(ade, 2, counts)
    for split, number in counts.items():
        files = sorted((ade / "annotations_detectron2" / split).iterdir())
        assert [file.name for file in files] == [f"{i}.png" for i in range(number)]
        np.testing.assert_array_equal(read_label(files[0]), [[255, 0], [149, 1]])


def test_cityscapes_has_the_official_train_ids(cityscapes):
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").id2label
    load_tool("cityscapes").prepare_cityscapes(cityscapes, 2, COUNTS)
    files = list(cityscapes.rglob("*_gtFine_labelTrainIds.png"))
    assert len(files) == 5
    expected = [labels[i].trainId for i in range(34)]
    np.testing.assert_array_equal(read_label(files[0]).ravel(), expected)


def test_ade20k_full(ade_full):
    run_ade_full(load_tool("ade20k_full"), ade_full)
    output = ade_full / "ade20k_full"
    # 300 is in validation alone, 40 in training alone.
    assert (output / "classes.txt").read_text() == "5 sky\n2978 lamp, light\n"
    assert sorted(path.name for path in output.iterdir()) == ["classes.txt", "images", "labels"]

    train = load_dataset("ade20k_full_train")
    original = ade_full / "images/ADE/training/urban/street/ADE_train_00000000.jpg"
    assert Path(train[0]["file_name"]).read_bytes() == original.read_bytes()
    label = read_label(train[0]["sem_seg_file_name"])
    assert label.dtype == np.uint16 and label.shape == (30, 40)
    bands = np.array_split(label, 4)
    for band, expected in zip(bands, (0, 65535, 1, 65535), strict=True):
        assert (band == expected).all()

    _, large = load_dataset("ade20k_full_val")
    label = read_label(large["sem_seg_file_name"])
    assert label.shape == (512, 1025)  # 600 x 1201
    assert Image.open(large["file_name"]).size == (1025, 512)
    assert set(np.unique(label)) == {1, 65535}
    assert (label[:170] == 1).all() and (label[172:] == 65535).all()


def test_ade20k_full_with_an_orientation(ade_full):
    path = ade_full / "images/ADE/training/urban/street/ADE_train_00000001.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    run_ade_full(load_tool("ade20k_full"), ade_full)
    with Image.open(ade_full / "ade20k_full/images/train/ADE_train_00000001.jpg") as image:
        assert image.size == (40, 30) and 0x0112 not in image.getexif()


def test_ade20k_full_with_another_number_of_classes_converts_nothing(ade_full):
    tool = load_tool("ade20k_full")
    with pytest.raises(InputError, match="Expected 3 classes with pixels.*found 2.*--classes"):
        run_ade_full(tool, ade_full, num_classes=3)
    assert list((ade_full / "ade20k_full").iterdir()) == []


def test_ade20k_full_with_given_classes(ade_full, tmp_path):
    tool = load_tool("ade20k_full")
    given = tmp_path / "mine.txt"
    given.write_text("300 wall\n40 rest\n")
    run_ade_full(tool, ade_full, class_file=given)
    label = read_label(load_dataset("ade20k_full_train")[0]["sem_seg_file_name"])
    assert set(np.unique(label)) == {1, 65535}
    given.write_text("40 rest\n300 wall\n")
    with pytest.raises(InputError, match="prepared with other classes"):
        run_ade_full(tool, ade_full, class_file=given)


def test_ade20k_full_names_come_from_the_images(ade_full):
    path = ade_full / "images/ADE/validation/urban/street/ADE_val_00000001.json"
    path.write_text('{"annotation": {"object": []}}')
    with pytest.raises(InputError, match="ADE_val_00000001.json has no name for index 300"):
        run_ade_full(load_tool("ade20k_full"), ade_full)


def prepare_calls(request, name):
    """The folder of a miniature download, and a function that prepares it."""
    fixtures = ("voc", "coco", "ade", "ade_full", "cityscapes")
    folder = request.getfixturevalue(fixtures[NAMES.index(name)])
    tool = load_tool(name)
    if name == "ade20k_full":
        return folder, lambda: run_ade_full(tool, folder, quiet=True)
    counts = {"training": 3, "validation": 2} if name == "ade20k" else COUNTS
    return folder, lambda: getattr(tool, f"prepare_{name}")(folder, 2, counts, quiet=True)


@pytest.mark.parametrize("name", NAMES)
def test_second_run_writes_only_what_is_missing(request, name, capsys):
    folder, run = prepare_calls(request, name)
    downloaded = snapshot(folder)
    run()
    done = snapshot(folder)
    # The download is unchanged, and no temporary file is left.
    assert all(done[path] == time for path, time in downloaded.items())
    assert not [path for path in done if path.name.startswith(".")]
    run()
    assert snapshot(folder) == done
    lost = max(path for path in done.keys() - downloaded.keys() if path.suffix == ".png")
    pixels = read_label(lost)
    lost.unlink()
    run()
    again = snapshot(folder)
    assert again.keys() == done.keys()
    assert {path for path in again if again[path] != done[path]} - {lost} <= {
        path for path in done if path.stem == lost.stem
    }
    np.testing.assert_array_equal(read_label(lost), pixels)
    assert capsys.readouterr() == ("", "")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_no_file_that_is_there_is_replaced_or_deleted(request, name, tmp_path):
    folder, run = prepare_calls(request, name)
    downloaded = snapshot(folder)
    run()
    written = sorted(path for path in snapshot(folder).keys() - downloaded.keys())
    for path in written:
        path.unlink()
    # The user's own: a label, links in the place of one, and folders of names that programs use.
    *_, label, link, dangling = (path for path in written if path.suffix == ".png")
    label.write_bytes(b"the user's")
    (tmp_path / "truth.png").write_bytes(b"the user's")
    link.symlink_to(tmp_path / "truth.png")
    dangling.symlink_to(tmp_path / "nothing.png")
    for place in ("found", ".found"):
        (written[0].parent / place).mkdir()
        (written[0].parent / place / "notes.json").write_text("the user's")
    before = contents(folder)
    run()
    after = contents(folder)
    assert {path: after[path] for path in before} == before
    assert link.is_symlink() and dangling.is_symlink()
    assert not (tmp_path / "nothing.png").exists()


def test_ade20k_full_keeps_images_that_are_there(ade_full, capsys):
    tool = load_tool("ade20k_full")
    path = ade_full / "ade20k_full" / "images" / "train" / "ADE_train_00000000.jpg"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"{path} already exists with size \(9, 9\), expected"):
        run_ade_full(tool, ade_full)
    assert path.read_bytes() == before
    Image.new("RGB", (40, 30)).save(path)
    before = path.read_bytes()
    run_ade_full(tool, ade_full)
    assert path.read_bytes() == before
    assert len(load_dataset("ade20k_full_train")) == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"x": 1}'])
def test_ade20k_full_with_findings_that_it_did_not_write(ade_full, text):
    path = ade_full / "ade20k_full" / ".found" / "train_00000.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path} cannot be read, or this program did not"):
        run_ade_full(load_tool("ade20k_full"), ade_full)
    assert path.read_text() == text


def test_a_file_that_cannot_be_written_does_not_stop_the_others(tmp_path):
    def convert(source, target):
        if target.name == "1.png":
            raise PermissionError(13, "Permission denied")
        target.write_text(source)

    sources = dict.fromkeys((tmp_path / f"{i}.png" for i in range(9)), "x")
    with pytest.raises(InputError, match=r"1 of 9 files .*\n.*1.png cannot be written"):
        preparation.convert_missing(convert, sources, desc="", threads=2, quiet=True)
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.parametrize("name", NAMES)
def test_number_of_images_is_checked_first(request, name):
    folder, run = prepare_calls(request, name)
    before = snapshot(folder)
    if name == "pascal_context":
        path = folder / "trainval_merged.json"
        data = json.loads(path.read_text())
        data["images"].pop()
        path.write_text(json.dumps(data))
    else:
        images = "*_leftImg8bit.png" if name == "cityscapes" else "*.jpg"
        next(folder.rglob(images)).unlink()
    with pytest.raises(InputError, match=r"\d found, \d expected \(1 missing\).*--help"):
        run()
    assert snapshot(folder).keys() <= before.keys()


@pytest.mark.parametrize(
    "name, pattern",
    [
        ("pascal_context", "JPEGImages/2008_000001.jpg"),
        ("coco_stuff", "stuffthingmaps/train2017/000000000001.png"),
        ("ade20k", "annotations/training/1.png"),
        ("ade20k_full", "images/ADE/training/urban/street/ADE_train_00000001_seg.png"),
        ("cityscapes", "gtFine/train/city/city_000001_000019_gtFine_labelIds.png"),
    ],
)
def test_missing_file_is_named_first(request, name, pattern):
    folder, run = prepare_calls(request, name)
    (folder / pattern).unlink()
    with pytest.raises(InputError, match=f"1 of 3 .*{Path(pattern).name}.*--help"):
        run()


@pytest.mark.parametrize(
    "name, pattern",
    [
        ("coco_stuff", "stuffthingmaps/train2017/000000000001.png"),
        ("ade20k", "annotations/training/1.png"),
        ("cityscapes", "gtFine/train/city/city_000001_000019_gtFine_labelIds.png"),
        ("ade20k_full", "images/ADE/training/urban/street/ADE_train_00000001.jpg"),
        ("ade20k_full", "images/ADE/training/urban/street/ADE_train_00000001_seg.png"),
    ],
)
def test_damaged_file_is_named_and_leaves_no_label(request, name, pattern):
    folder, run = prepare_calls(request, name)
    (folder / pattern).write_bytes((folder / pattern).read_bytes()[:40])
    with pytest.raises(InputError, match=f"{Path(pattern).name} cannot be read|{pattern}"):
        run()
    assert not [path for path in folder.rglob(".*")]


@pytest.mark.parametrize("name", NAMES)
def test_command_line(name, root, capsys):
    tool = load_tool(name)
    with pytest.raises(SystemExit):
        tool.main(["--help"])
    out = capsys.readouterr().out
    assert str(root) in re.sub(r"\s", "", out)  # wherever the line is broken
    # Nothing downloaded: an error of one message, which says where to look.
    assert tool.main([]) == 1
    error = capsys.readouterr().err
    assert str(root) in error and f"tools/prepare_{name}.py --help" in error
    assert tool.main(["--folder", str(root / "elsewhere")]) == 1
    assert str(root / "elsewhere") in capsys.readouterr().err


def test_command_line_prepares(ade, capsys, monkeypatch):
    tool = load_tool("ade20k")
    default = tool.prepare_ade20k.__defaults__
    monkeypatch.setattr(tool.prepare_ade20k, "__defaults__", ({"training": 3, "validation": 2},))
    assert default[0] == {"training": 20210, "validation": 2000}
    assert tool.main(["--threads", "1"]) == 0
    assert len(list((ade / "annotations_detectron2").rglob("*.png"))) == 5
    streams = capsys.readouterr()
    assert "3/3" in streams.err and streams.out == ""
    shutil.rmtree(ade / "annotations_detectron2")
    assert tool.main(["--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_interrupt_and_full_disk(tmp_path, capsys):
    def interrupted(folder, threads, quiet):
        raise KeyboardInterrupt

    args = Namespace(folder=tmp_path, threads=1, quiet=False, verbose=False)
    assert preparation.run(interrupted, args) == 130
    assert "Run it again to continue" in capsys.readouterr().err

    def no_room(source, target):
        raise OSError(28, "No space left on device")

    sources = dict.fromkeys(tmp_path / f"{i}.png" for i in range(50))
    with pytest.raises(InputError, match=r"\d+.png cannot be written.*No space left.*run it again"):
        preparation.convert_missing(no_room, sources, desc="", threads=2, quiet=True)


def test_published_numbers():
    assert pascal_context.NUM_IMAGES == {"train": 4996, "val": 5104}
    assert coco_stuff.NUM_IMAGES == {"train": 118287, "val": 5000}
    assert ade20k_full.NUM_IMAGES == {"train": 25574, "val": 2000}
    assert ade20k_full.NUM_CLASSES == 847
    assert load_tool("cityscapes").NUM_IMAGES == {"train": 2975, "val": 500}
    assert MetadataCatalog.get("ade20k_full_val").ignore_label == 65535
