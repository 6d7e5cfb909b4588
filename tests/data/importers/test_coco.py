import numpy as np
import pytest
from pycocotools import mask as mask_util

from sar.data.importers.run import Request, import_dataset
from sar.data.importers.source import Options
from sar.errors import InputError

from .miniature import NAMES, SIZE, assert_equal, new_scene, run, save, scenes, write_json

IDS = {"gravel": 7, "kerb": 3, "bollard": 90}
TOO_LONG = mask_util.encode(np.zeros((99, 99), np.uint8, order="F"))["counts"].decode()
CATEGORIES = [{"id": number, "name": name} for name, number in IDS.items()]


def runs(mask):
    """Lengths of runs along the columns, the first of zeros."""
    values = [False, *mask.T.ravel().tolist()]
    lengths, last = [-1], False
    for value in values:
        if value == last:
            lengths[-1] += 1
        else:
            lengths.append(1)
        last = value
    return lengths


def polygon_of(box):
    _, x0, y0, x1, y1 = box
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def mask_of(box):
    mask = np.zeros(SIZE, bool)
    mask[box[2] : box[4], box[1] : box[3]] = True
    return mask


def as_runs(box):
    return {"size": list(SIZE), "counts": runs(mask_of(box))}


def as_text(box):
    found = mask_util.encode(np.asfortranarray(mask_of(box).astype(np.uint8)))
    return {"size": list(SIZE), "counts": found["counts"].decode()}


def content(found, encode=polygon_of, folder=""):
    images = [
        {"id": i, "file_name": f"{folder}{scene.name}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for i, scene in enumerate(found)
    ]
    annotations = [
        {"id": 1000 * i + j, "image_id": i, "category_id": IDS[box[0]], "segmentation": encode(box)}
        for i, scene in enumerate(found)
        for j, box in enumerate(scene.boxes)
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def export(
    root, found, encode=polygon_of, json="annotations/instances_train.json", images="images"
):
    for scene in found:
        save(root / images / f"{scene.name}.jpg", scene.image)
    return write_json(root / json, content(found, encode))


@pytest.mark.parametrize("encode", [polygon_of, as_runs, as_text])
def test_each_kind_of_segmentation(tmp_path, encode):
    found = scenes()
    path = export(tmp_path / "coco", found, encode)
    assert_equal(run(tmp_path / "coco", tmp_path / "a"), found)
    assert_equal(run(path, tmp_path / "b"), found)
    # In the order of the ids, after the background.
    assert (tmp_path / "a/classes.txt").read_text().split() == [
        "background", "kerb", "gravel", "bollard",
    ]  # fmt: skip


def test_parts_of_a_shape_are_one_region(tmp_path):
    square = [
        [2, 2, 12, 2, 12, 12, 2, 12],
        [8, 8, 20, 8, 20, 20, 8, 20],
        [],
        [30, 1, 33, 1, 33, 4, 30, 4],
    ]
    found = new_scene("a0", num_boxes=1)
    path = export(tmp_path / "coco", [found], lambda box: square)
    (label,) = run(path, tmp_path / "mine").values()
    expected = np.zeros(SIZE, bool)
    expected[2:12, 2:12] = expected[8:20, 8:20] = expected[1:4, 30:33] = True
    np.testing.assert_array_equal(label == "gravel", expected)


def test_files_are_splits_as_their_folders_or_names_say(tmp_path):
    first, second = scenes(2, "t"), scenes(2, "v")
    for root, names in (
        ("cvat", ("annotations/instances_train2017.json", "annotations/instances_val2017.json")),
        ("roboflow", ("train/_annotations.coco.json", "valid/_annotations.coco.json")),
    ):
        for found, json in zip((first, second), names, strict=True):
            folder = "images" if root == "cvat" else json.split("/")[0]
            export(tmp_path / root, found, json=json, images=folder)
        imported = run(tmp_path / root, tmp_path / f"{root}_imported")
        assert_equal(imported, first, "train")
        assert_equal(imported, second, "val")


def test_folders_of_images_are_splits_if_the_file_is_not(tmp_path):
    found = scenes(4)
    whole = content(found)
    for image, split in zip(whole["images"], ("train", "val", "train", "val"), strict=True):
        image["file_name"] = f"{split}/{image['file_name']}"
        save(tmp_path / "coco/images" / image["file_name"], found[image["id"]].image)
    write_json(tmp_path / "coco/annotations.json", whole)
    imported = run(tmp_path / "coco", tmp_path / "mine")
    assert_equal(imported, found[::2], "train")
    assert_equal(imported, found[1::2], "val")


def test_roboflows_name_of_the_group_is_no_class(tmp_path):
    found = scenes(1)
    path = export(tmp_path / "coco", found)
    group = [{"id": 0, "name": "things", "supercategory": "none"}]
    classes = [entry | {"supercategory": "things"} for entry in CATEGORIES]
    write_json(path, content(found) | {"categories": group + classes})
    assert_equal(run(path, tmp_path / "mine"), found)
    assert "things" not in (tmp_path / "mine/classes.txt").read_text()


def panoptic(root, found):
    annotations = []
    for i, scene in enumerate(found):
        save(root / "val2017" / f"{scene.name}.png", scene.image)
        segments = {name: 300 * (k + 1) + 70_000 * k for k, name in enumerate(NAMES)} | {"": 0}
        ids = np.vectorize(segments.get)(scene.truth)
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        save(root / "annotations/panoptic_val2017" / f"{scene.name}.png", rgb)
        infos = [{"id": segments[n], "category_id": IDS[n]} for n in NAMES if n in scene.truth]
        annotations.append(
            {"image_id": i, "file_name": f"{scene.name}.png", "segments_info": infos}
        )
    whole = content(found) | {"annotations": annotations}
    for image in whole["images"]:
        image["file_name"] = image["file_name"].replace(".jpg", ".png")
    return write_json(root / "annotations/panoptic_val2017.json", whole)


def test_panoptic_pngs(tmp_path):
    found = scenes()
    path = panoptic(tmp_path / "coco", found)
    imported = run(tmp_path / "coco", tmp_path / "mine", shares=[1])
    assert_equal(imported, found)
    assert_equal(
        run(path, tmp_path / "ignored", shares=[1], background="ignore"), found, nothing="ignored"
    )


def test_panoptic_pngs_next_to_the_file_are_not_taken_for_the_images(tmp_path):
    found = scenes()
    path = panoptic(tmp_path / "coco", found)
    for scene in found:
        png = path.with_suffix("") / f"{scene.name}.png"
        png.rename(path.parent / png.name)
    (tmp_path / "coco/val2017").rename(tmp_path / "coco/images")
    assert_equal(run(tmp_path / "coco", tmp_path / "mine", shares=[1]), found)


def broken(annotation, **changes):
    def change(found):
        found["annotations"][annotation] |= changes

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (broken(2, category_id=5), r"annotation 3 \(id 2\): the category 5 is not in"),
        (broken(1, image_id=77), "annotation 2: no image has the id 77"),
        (broken(1, segmentation=[[1, 2, 3, 4, 5]]), r"2 \(id 1\) \(polygon of \"ke.*points"),
        (broken(1, segmentation=[[1, 2, 3, 4, 5, "x"]]), "annotation 2 .* not a list of x and y"),
        (broken(1, segmentation=[[0, 0, 900, 0, 5, 5]]), r"annotation 2 .* \(900, 0\) lies far"),
        (broken(1, segmentation=[[0, 0, float("nan"), 0, 5, 5]]), "annotation 2 .* far outside"),
        (broken(1, segmentation={"size": [3, 4], "counts": [12]}), "annotation 2 .* has the size"),
        (broken(1, segmentation={"size": list(SIZE), "counts": [5, 6]}), "cover 11 pixels, but"),
        (broken(1, segmentation={"size": list(SIZE), "counts": TOO_LONG}), "2 .*decoded"),
        (broken(1, segmentation={"size": list(SIZE), "counts": 5}), "annotation 2 .* decoded"),
        (
            lambda found: found["images"][0].update(width=45),
            "is for 45 x 30 pixels, but the image has 44 x 30",
        ),
        (lambda found: found["images"][0].pop("height"), "has no valid height and width"),
        (lambda found: found["annotations"][0].pop("image_id"), "has no 'image_id'"),
        (
            lambda found: found["images"][0].update(file_name="b.jpg"),
            "None of the 1 annotated images",
        ),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_annotation(tmp_path, change, message):
    found = scenes(1)
    path = export(tmp_path / "coco", found)
    whole = content(found)
    change(whole)
    write_json(path, whole)
    with pytest.raises(InputError, match=message) as error:
        run(path, tmp_path / "mine")
    assert str(path) in str(error.value) or "annotated images" in message
    assert not (tmp_path / "mine").exists()


def test_one_image_in_two_files_is_an_error(tmp_path):
    export(tmp_path / "coco", scenes(1), json="instances_train.json")
    export(tmp_path / "coco", scenes(1), json="stuff_train.json")
    with pytest.raises(InputError, match=r"a0\.jpg is listed twice, in .*instances_train.* and"):
        run(tmp_path / "coco", tmp_path / "mine")


def test_an_image_of_another_split_is_not_taken_for_a_missing_one(tmp_path):
    train, val = scenes(2), scenes(1)
    export(tmp_path / "coco", train, json="train/a.json", images="train")
    export(tmp_path / "coco", val, json="valid/a.json", images="valid")
    (tmp_path / "coco/train/a0.jpg").unlink()
    imported = run(tmp_path / "coco", tmp_path / "mine")
    assert sorted(imported) == ["train/a1", "val/a0"]


def test_relative_and_absolute_folders_in_one_command(tmp_path, monkeypatch):
    found = scenes(2)
    export(tmp_path / "coco", found, images="../photos")
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    assert_equal(run("coco", tmp_path / "mine", options=Options(images=photos)), found)


@pytest.mark.parametrize("segmentation", [[], [[]]])
def test_boxes_and_images_elsewhere(tmp_path, segmentation, capsys):
    found = scenes(2)
    path = export(tmp_path / "coco", found, images="../photos")
    whole = content(found)
    whole["annotations"][0]["segmentation"] = segmentation
    write_json(path, whole)
    options = {"options": Options(images=tmp_path / "photos")}
    imported = run(path, tmp_path / "mine", **options)
    assert_equal({"train/a1": imported["train/a1"]}, found[1:])
    import_dataset(Request(path, tmp_path / "again", dry_run=True, **options))
    assert (
        "1 x annotation without segmentation, which has no area (gravel 1)"
        in capsys.readouterr().out
    )


def test_an_image_of_the_same_name_in_another_folder_is_not_meant(tmp_path):
    found = scenes(2)
    path = write_json(tmp_path / "coco/train.json", content(found, folder="cam2/"))
    save(tmp_path / "coco/cam1/a0.jpg", found[0].image)
    save(tmp_path / "coco/cam2/a1.jpg", found[1].image)
    assert set(run(path, tmp_path / "mine")) == {"train/cam2/a1"}


def test_names_that_differ_only_in_case(tmp_path):
    lower, upper = new_scene("a"), new_scene("A", seed=1)
    path = export(tmp_path / "coco", [lower, upper], json="train.json")
    if len(list((tmp_path / "coco/images").iterdir())) < 2:
        pytest.skip("The file system ignores case.")
    found = run(path, tmp_path / "mine")
    assert len(found) == 2
    for scene, label in zip((upper, lower), found.values(), strict=True):
        assert_equal({f"train/{scene.name}": label}, [scene])


def test_an_image_in_a_sub_folder_may_have_the_name_of_another(tmp_path):
    first, second = new_scene("a"), new_scene("sub dir/a", seed=1)
    path = export(tmp_path / "coco", [first, second], json="train.json")
    found = run(path, tmp_path / "mine")
    assert_equal(found, [first, second])
