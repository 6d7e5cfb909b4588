"""Masks of ids and colours, in the folders of each format."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sar.data.importers import mask_folders
from sar.data.importers.run import Request, import_dataset
from sar.data.importers.source import Options
from sar.data.importers.tree import Tree
from sar.errors import InputError

from .miniature import COLORS, NAMES, SIZE, assert_equal, full_scene, labels, run, save, scenes

IDS = {name: i for i, name in enumerate(NAMES)}
CLASSES = "".join(f"{n} {r} {g} {b}\n" for n, (r, g, b) in zip(NAMES, COLORS, strict=True))


def full_scenes(number=3, prefix="a"):
    return [full_scene(f"{prefix}{i}", seed=i) for i in range(number)]


def as_ids(scene):
    return Image.fromarray(scene.ids())


def as_rgb(scene):
    return Image.fromarray(np.array(COLORS, np.uint8)[scene.ids()])


def as_rgba(scene):
    return as_rgb(scene).convert("RGBA")


def as_equal_channels(scene):
    return as_ids(scene).convert("RGB")


def with_palette(scene, order=(0, 1, 2)):
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[scene.ids()])
    image.putpalette(np.array(COLORS, np.uint8)[list(order)].tobytes())
    return image


def with_other_indices(scene):
    """A palette image whose colours are the classes, but whose indices are not the ids."""
    return with_palette(scene, (2, 0, 1))


def export(root, found, encode, image="images/train/{}.jpg", mask="labels/train/{}.png"):
    for scene in found:
        save(root / image.format(scene.name), scene.image)
        save(root / mask.format(scene.name), encode(scene))
    return root


@pytest.mark.parametrize(
    "encode, suffix",
    [
        (as_ids, "png"), (as_ids, "tif"), (as_equal_channels, "png"), (with_palette, "png"),
        (as_rgb, "png"), (as_rgb, "bmp"), (as_rgba, "tif"), (with_other_indices, "png"),
        (with_other_indices, "tif"),
    ],
)  # fmt: skip
def test_ids_and_colours_with_one_class_file(tmp_path, encode, suffix):
    found = full_scenes()
    root = export(tmp_path / "masks", found, encode, mask=f"labels/train/{{}}.{suffix}")
    (root / "classes.txt").write_text(CLASSES)
    assert_equal(run(root, tmp_path / "mine"), found)
    assert (tmp_path / "mine/classes.txt").read_text() == CLASSES


@pytest.mark.parametrize(
    "image, mask",
    [
        ("{}.jpg", "{}_mask.png"),
        ("images/{}.jpg", "masks/{}.png"),
        ("images/{}.jpg", "SegmentationLabels/{}.png"),
        ("train/images/{}.png", "train/masks/{}_mask.png"),
        ("train/{}.png", "train_labels/{}_L.png"),
        ("train/{}.png", "trainannot/{}.png"),
        ("JPEGImages/{}.jpg", "Annotations/{}.png"),
        ("leftImg8bit/train/bonn/{}_leftImg8bit.png", "gtFine/train/bonn/{}_gtFine_labelIds.png"),
        (
            "a/leftImg8bit_trainvaltest/train/{}_leftImg8bit.png",
            "a/gtFine_trainvaltest/train/{}_gtFine_labelIds.png",
        ),
        ("left/images/{}_L.png", "left/labels/{}_L.png"),
    ],
)  # fmt: skip
def test_names_that_belong_together(tmp_path, image, mask):
    found = full_scenes()
    root = export(tmp_path / "masks", found, as_rgb, image, mask)
    (root / "names.txt").write_text(CLASSES)
    shares = None if "train" in image else [1]
    options = Options(classes=root / "names.txt")
    if "Segmentation" in mask:
        with pytest.raises(InputError, match="no format that is recognized"):
            run(root, tmp_path / "mine", shares=shares, options=options)
        options = Options(root / "images", root / "SegmentationLabels", classes=root / "names.txt")
    imported = run(root, tmp_path / "mine", shares=shares, options=options)
    expected = {
        re.sub(".*/", "", key).removesuffix("_leftImg8bit").removesuffix("_L"): value
        for key, value in imported.items()
    }
    assert_equal({f"train/{key}": value for key, value in expected.items()}, found)


@pytest.mark.parametrize("mask", ["masks/{}.png", "masks/{}_mask.png"])
def test_masks_of_all_splits_in_one_folder(tmp_path, capsys, mask):
    found = full_scenes(4)
    for split, part in (("train", found[::2]), ("val", found[1::2])):
        export(tmp_path / "masks", part, as_rgb, f"images/{split}/{{}}.jpg", mask)
    (tmp_path / "masks/classes.txt").write_text(CLASSES)
    imported = run(tmp_path / "masks", tmp_path / "mine")
    assert_equal(imported, found[::2], "train")
    assert_equal(imported, found[1::2], "val")
    # A mask of two images, or a second mask of one, is left out.
    save(tmp_path / "masks/images/val/a0.jpg", found[0].image)
    save(tmp_path / "masks/masks/val/a1.png", as_rgb(found[1]))
    import_dataset(Request(tmp_path / "masks", tmp_path / "other"))
    assert set(labels(tmp_path / "other")) == {"train/a2", "val/a1", "val/a3"}
    out = capsys.readouterr().out
    assert "Images without a mask: 2 (" in out and "Masks without an image: 2 (" in out


def test_splits_and_folders_are_kept_as_in_cityscapes(tmp_path):
    train, val = full_scenes(3, "t"), full_scenes(2, "v")
    for split, found in (("train", train), ("val", val)):
        names = f"leftImg8bit/{split}/bonn/{{}}_leftImg8bit.png", f"gtFine/{split}/bonn/{{}}_gtFine"
        export(tmp_path / "city", found, as_ids, names[0], f"{names[1]}_labelIds.png")
        export(tmp_path / "city", found, as_rgb, names[0], f"{names[1]}_color.png")
        export(tmp_path / "city", found, as_equal_channels, names[0], f"{names[1]}_instanceIds.png")
    options = Options(renamed=[("0", "gravel"), ("1", "kerb"), ("2", "bollard")])
    imported = run(tmp_path / "city", tmp_path / "mine", options=options)
    assert sorted(imported)[0] == "train/bonn/t0_leftImg8bit" and len(imported) == 5
    np.testing.assert_array_equal(imported["val/bonn/v1_leftImg8bit"], val[1].truth)
    export(
        tmp_path / "city",
        train,
        as_ids,
        names[0].replace("val", "train"),
        "gtFine/train/bonn/{}_gtFine_labelTrainIds.png",
    )
    with pytest.raises(
        InputError, match="are masks of the same image: choose one kind with --label-suffix"
    ):
        run(tmp_path / "city", tmp_path / "other", options=options)
    options = Options(renamed=options.renamed, label_suffix="_gtFine_labelIds")
    assert len(run(tmp_path / "city", tmp_path / "other", options=options)) == 5


def voc(root, found, encode, lists=("train",), images="JPEGImages/{}.jpg"):
    export(root, found, encode, images, "SegmentationClass/{}.png")
    for split in lists:
        path = root / "ImageSets/Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{scene.name}\n" for scene in found))
    return root


@pytest.mark.parametrize("encode", [as_rgb, with_other_indices])
def test_cvats_segmentation_mask(tmp_path, encode):
    found = full_scenes()
    root = voc(tmp_path / "cvat", found, encode, lists=["default"])
    lines = [f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip(NAMES, COLORS, strict=True)]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines))
    assert_equal(run(root, tmp_path / "mine", shares=[1]), found)
    # Without images, they can be elsewhere.
    (root / "JPEGImages").rename(tmp_path / "photos")
    with pytest.raises(InputError, match="has an image of its name in JPEGImages"):
        run(root, tmp_path / "other")
    imported = run(
        root, tmp_path / "other", shares=[1], options=Options(images=tmp_path / "photos")
    )
    assert_equal(imported, found)


def test_palette_images_of_voc(tmp_path):
    found = scenes()
    first, second = found[:2], found[2:]

    def encode(scene):  # VOC's own colours; 255 is the outline
        image = as_ids(scene)
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
        return image

    root = voc(tmp_path / "voc", first, encode, ["train"])
    voc(root, second, encode, ["val"])
    (root / "ImageSets/Segmentation/trainval.txt").write_text("a0\na1\na2\n")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    imported = run(root, tmp_path / "mine", options=Options(classes=tmp_path / "names.txt"))
    assert_equal(imported, first, "train", nothing="ignored")
    assert_equal(imported, second, "val", nothing="ignored")
    (root / "ImageSets/Segmentation/val.txt").write_text("a2\na1\n")
    with pytest.raises(InputError, match=r'line 1: "a1" is in the split train|line 2: "a1" is in'):
        run(root, tmp_path / "other", options=Options(classes=tmp_path / "names.txt"))


def test_folders_of_voc_are_splits_without_lists(tmp_path):
    found = full_scenes(4, "a.b")
    for split, part in (("train", found[::2]), ("val", found[1::2])):
        names = f"JPEGImages/{split}/{{}}.jpg", f"SegmentationClass/{split}/{{}}.png"
        export(tmp_path / "voc", part, as_ids, *names)
    (tmp_path / "voc/classes.txt").write_text("\n".join(NAMES))
    imported = run(tmp_path / "voc", tmp_path / "mine")
    assert_equal(imported, found[::2], "train")
    assert_equal(imported, found[1::2], "val")


def test_names_that_two_files_of_voc_or_roboflow_have(tmp_path):
    """No mask may be taken for the mask of another image, and no image may be lost."""
    for year in ("VOC2007", "VOC2012"):
        voc(tmp_path / "voc" / year, full_scenes(2), as_ids)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    options = Options(classes=tmp_path / "names.txt")
    with pytest.raises(
        InputError, match=r"VOC2007/.*a0\.png and .*VOC2012/.*a0\.png are two masks"
    ):
        run(tmp_path / "voc", tmp_path / "mine", options=options)
    assert len(run(tmp_path / "voc/VOC2007", tmp_path / "one", options=options)) == 2
    for suffix in ("jpg", "png"):
        save(tmp_path / f"photos/a0.{suffix}", scenes(1)[0].image)
    images = Options(images=tmp_path / "photos", classes=tmp_path / "names.txt")
    with pytest.raises(InputError, match=r"a0\.jpg and .*a0\.png are two images of the same name"):
        run(tmp_path / "voc/VOC2007", tmp_path / "mine", options=images)
    roboflow(tmp_path / "robo", full_scenes(2), "train")
    save(tmp_path / "robo/train/a0.png", scenes(1)[0].image)
    with pytest.raises(InputError, match=r"a0\.jpg and .*a0\.png are two images of the same name"):
        run(tmp_path / "robo", tmp_path / "mine")


def roboflow(root, found, split):
    export(root, found, as_ids, f"{split}/{{}}.jpg", f"{split}/{{}}_mask.png")
    lines = ["Pixel Value, Class", *(f"{i}, {name}" for i, name in enumerate(NAMES))]
    (root / split / "_classes.csv").write_text("\n".join(lines))


def test_roboflows_semantic_masks(tmp_path):
    parts = {
        "train": full_scenes(3, "t"),
        "valid": full_scenes(2, "v"),
        "test": full_scenes(2, "x"),
    }
    for split, found in parts.items():
        roboflow(tmp_path / "robo", found, split)
    imported = run(tmp_path / "robo", tmp_path / "mine")
    for split, found in zip(("train", "val", "test"), parts.values(), strict=True):
        assert_equal(imported, found, split)
    classes = tmp_path / "robo/test/_classes.csv"
    classes.write_text("Pixel Value, Class\n0, gravel\nkerb\n")
    with pytest.raises(InputError, match=r'_classes\.csv, line 3: expected "PIXEL VALUE, CLASS"'):
        run(tmp_path / "robo", tmp_path / "other")
    classes.write_text("Pixel Value, Class\n0, gravel\n")
    with pytest.raises(InputError, match="have different classes"):
        run(tmp_path / "robo", tmp_path / "other")


def test_values_without_names_are_listed(tmp_path):
    root = export(tmp_path / "ids", full_scenes(), as_ids)
    with pytest.raises(
        InputError, match=r"3 masks have ids without names: 0 in 3 masks, 1 in 3 masks.*--map"
    ):
        run(root, tmp_path / "mine")
    root = export(tmp_path / "colors", full_scenes(), as_rgb)
    with pytest.raises(
        InputError, match=r"3 masks have colours without names: .*\(255, 0, 0\) in 3 masks"
    ):
        run(root, tmp_path / "mine")
    (root / "classes.txt").write_text("\n".join(NAMES))
    with pytest.raises(InputError, match=r"a class file with a colour for each class"):
        run(root, tmp_path / "mine")


def test_other_values_are_errors_until_they_are_ignored_or_named(tmp_path):
    found = full_scenes(2)
    root = export(tmp_path / "ids", found, as_ids)
    (root / "classes.txt").write_text("gravel\nkerb\n")
    with pytest.raises(
        InputError, match=r"a0\.png has ids without a class: 2 \(\d+ pixels\)\. .*--ignore 2"
    ):
        run(root, tmp_path / "mine")
    imported = run(root, tmp_path / "ignored", options=Options(ignore=["2"]))
    for scene in found:
        scene.truth[scene.truth == "bollard"] = "ignored"
    assert_equal(imported, found)
    assert_equal(run(root, tmp_path / "named", options=Options(renamed=[("2", "ignored")])), found)

    found = full_scenes(2)
    root = export(tmp_path / "colors", found, as_rgb)
    (root / "classes.txt").write_text(CLASSES.replace("0 255 1", "1 255 9"))
    with pytest.raises(InputError) as error:
        run(root, tmp_path / "mine")
    message = (
        r"a0\.png has \d+ pixels in colours without a class: \(0, 255, 1\) \(\d+ pixels, "
        r'nearest to "bollard" \(1, 255, 9\)\)'
    )
    assert re.search(message, str(error.value))
    assert str(error.value).endswith("2 of 2 images cannot be imported. Nothing was written.")
    for scene in found:
        scene.truth[scene.truth == "bollard"] = "ignored"
    assert_equal(run(root, tmp_path / "c", options=Options(ignore=["0,255,1"])), found)


def test_transparent_pixels_are_ignored(tmp_path):
    (found,) = full_scenes(1)
    rgba = np.array(as_rgba(found))
    rgba[:4, :, 3], rgba[4, :3, :] = 0, (99, 99, 99, 0)
    rgba[5, :, 3] = 128
    root = export(tmp_path / "masks", [found], lambda _: Image.fromarray(rgba))
    (root / "classes.txt").write_text(CLASSES)
    found.truth[:4], found.truth[4, :3] = "ignored", "ignored"
    assert_equal(run(root, tmp_path / "mine"), [found])


def test_ids_or_colours_that_cannot_be_told_apart(tmp_path):
    found = full_scenes(2)
    root = export(tmp_path / "masks", found, as_equal_channels)
    (root / "classes.txt").write_text("gravel 2 2 2\nkerb 1 1 1\nbollard 0 0 0\n")
    with pytest.raises(InputError, match=r"a0\.png may be ids or colours.*--map R,G,B=NAME"):
        run(root, tmp_path / "mine")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    assert_equal(
        run(root, tmp_path / "mine", options=Options(classes=tmp_path / "names.txt")), found
    )
    (root / "classes.txt").write_text("gravel 0 0 0\nkerb 1 1 1\nbollard 2 2 2\n")
    assert_equal(run(root, tmp_path / "equal"), found)
    (root / "classes.txt").unlink()
    colors = [(f"{i},{i},{i}", name) for i, name in enumerate(NAMES)]
    assert_equal(run(root, tmp_path / "colors", options=Options(renamed=colors)), found)


def as_black_and_white(scene):
    return Image.fromarray(np.where(scene.truth == "kerb", 255, 0).astype(np.uint8))


def as_rgb_black_and_white(scene):
    return as_black_and_white(scene).convert("RGB")


WHITE_CLASSES = ["bg 0 0 0\nroad 255 255 255\n", "road #ffffff\nbg #000000\n"]


@pytest.mark.parametrize("lines", WHITE_CLASSES)
@pytest.mark.parametrize("renamed", [[], [("0,0,0", "bg"), ("255,255,255", "road")]])
def test_255_is_the_colour_of_a_white_class(tmp_path, lines, renamed):
    found = full_scenes(2)
    root = export(tmp_path / "rgb", found, as_rgb_black_and_white)
    (root / "classes.txt").write_text(lines)
    for scene in found:
        scene.truth = np.where(scene.truth == "kerb", "road", "bg")
    assert_equal(run(root, tmp_path / "mine", options=Options(renamed=renamed)), found)


@pytest.mark.parametrize("lines", WHITE_CLASSES)
def test_255_in_one_channel_may_be_a_white_class(tmp_path, lines):
    found = full_scenes(2)
    root = export(tmp_path / "grey", found, as_black_and_white)
    (root / "classes.txt").write_text(lines)
    with pytest.raises(
        InputError,
        match=r"a0\.png has ids without a class: 255 .*--ignore 255, .*--map 0=bg 255=road\.",
    ):
        run(root, tmp_path / "mine")
    for name, options, white in (
        ("map", Options(renamed=[("0", "bg"), ("255", "road")]), "road"),
        ("ignore", Options(renamed=[("0", "bg")], ignore=["255"]), "ignored"),
    ):
        imported = run(root, tmp_path / name, options=options).values()
        for label, scene in zip(imported, found, strict=True):
            np.testing.assert_array_equal(label, np.where(scene.truth == "kerb", white, "bg"))


def test_foreground_that_is_ignored_is_reported(tmp_path, capsys):
    """Names without colours do not tell that 255 is the foreground."""
    root = export(tmp_path / "grey", full_scenes(2), as_black_and_white)
    (root / "classes.txt").write_text("bg\nroad\n")
    note = "- The labels have the ids 0 and 255 alone, and 255 is ignored: if 255 stands for the"
    import_dataset(Request(root, tmp_path / "x", dry_run=True))
    assert note in capsys.readouterr().out
    for options in (Options(ignore=["255"]), Options(renamed=[("255", "road")])):
        import_dataset(Request(root, tmp_path / "x", dry_run=True, options=options))
        assert note not in capsys.readouterr().out


def test_one_mask_does_not_decide_for_all(tmp_path):
    """The first mask fits the ids only; the colours of the others tell that it is wrong."""
    found = full_scenes(3)
    root = export(tmp_path / "masks", found, with_other_indices)
    wrong = with_other_indices(found[0])
    wrong.putpalette(bytes(range(9)))
    save(root / "labels/train/a0.png", wrong)
    (root / "classes.txt").write_text(CLASSES)
    with pytest.raises(InputError, match=r"a0\.png has \d+ pixels in colours without a class"):
        run(root, tmp_path / "mine")


def test_unknown_ids_next_to_classes_with_colours(tmp_path):
    root = export(tmp_path / "masks", full_scenes(2), as_ids)
    (root / "classes.txt").write_text("gravel 0 0 0\nkerb 255 0 0\n")
    with pytest.raises(InputError, match=r"a0\.png has ids without a class: 2 .* the ids 0 to 1"):
        run(root, tmp_path / "mine")


def test_two_classes_of_one_colour(tmp_path):
    root = export(tmp_path / "masks", full_scenes(1), as_rgb)
    (root / "classes.txt").write_text(CLASSES + "wall 255 0 0\n")
    with pytest.raises(InputError, match=r'"kerb" and "wall" have the same colour \(255, 0, 0\)'):
        run(root, tmp_path / "mine")


@pytest.mark.parametrize("background", ["class", "ignore"])
def test_a_class_called_background(tmp_path, background):
    found = scenes(2)
    root = export(
        tmp_path / "masks", found, lambda s: Image.fromarray(s.ids(("", *NAMES), nothing=0))
    )
    (root / "classes.txt").write_text("\n".join(["background", *NAMES]))
    nothing = {"class": "background", "ignore": "ignored"}[background]
    assert_equal(run(root, tmp_path / "mine", background=background), found, nothing=nothing)
    names = (tmp_path / "mine/classes.txt").read_text().split()
    assert names == ["background", *NAMES][background == "ignore" :]


def test_more_than_255_classes_have_16_bits(tmp_path):
    ids = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 300
    root = tmp_path / "masks"
    save(root / "images/train/a.png", scenes(1)[0].image)
    ids[0, 0] = 65535
    save(root / "labels/train/a.png", ids.astype(np.uint16))
    (root / "classes.txt").write_text("".join(f"class_{i}\n" for i in range(300)))
    (label,) = run(root, tmp_path / "mine").values()
    assert label[0, 0] == "ignored" and label[0, 1] == "class_1" and "class_255" in label
    with Image.open(tmp_path / "mine/labels/train/a.png") as image:
        assert image.mode == "I;16"
    # 255 is ignored again where two classes of 256 are merged.
    (root / "classes.txt").write_text("".join(f"class_{i}\n" for i in range(256)))
    save(root / "labels/train/a.png", (ids % 256).astype(np.uint16))
    (label,) = run(
        root, tmp_path / "b", options=Options(renamed=[("class_255", "class_0")])
    ).values()
    assert (label == "class_0").sum() == (ids % 256 == 0).sum() + (ids % 256 == 255).sum()


def test_images_with_and_without_a_split(tmp_path):
    root = export(tmp_path / "masks", full_scenes(2), as_ids)
    export(root, full_scenes(2, "b"), as_ids, "images/{}.jpg", "labels/{}.png")
    save(root / "images/train/alone.jpg", scenes(1)[0].image)
    save(root / "images/alone.jpg", scenes(1)[0].image)
    (root / "classes.txt").write_text("\n".join(NAMES))
    with pytest.raises(InputError, match="2 of 4 images have no split, but others have one"):
        run(root, tmp_path / "mine")
    assert len(run(root, tmp_path / "mine", shares=[1])) == 4


def test_a_folder_of_masks_inside_the_source(tmp_path, monkeypatch):
    """The masks are no images, even if one path is absolute and the other is not."""
    found = full_scenes(2)
    root = export(tmp_path / "masks", found, as_ids, "{}.jpg", "gold/{}.png")
    (root / "classes.txt").write_text("\n".join(NAMES))
    save(root / "gold/more.png", as_ids(found[0]))  # would be an image without a mask
    monkeypatch.chdir(tmp_path)
    for labels_folder in ("masks/gold", root / "gold"):
        tree = Tree(Path("masks"))
        source = mask_folders.read(tree, Options(labels=Path(labels_folder)))
        assert [item.image.name for item in source.items] == ["a0.jpg", "a1.jpg"]
        assert [note for note in source.notes if "Images without" in note] == []


def test_images_and_masks_without_partner_are_reported(tmp_path, capsys):
    found = full_scenes(3)
    root = export(tmp_path / "masks", found, as_ids)
    (root / "classes.txt").write_text("\n".join(NAMES))
    (root / "labels/train/a1.png").unlink()
    (root / "images/train/a2.jpg").unlink()
    import_dataset(Request(root, tmp_path / "mine"))
    out = capsys.readouterr().out
    assert f"Images without a mask: 1 ({root / 'images/train/a1.jpg'})." in out
    assert f"Masks without an image: 1 ({root / 'labels/train/a2.png'})." in out
    assert set(labels(tmp_path / "mine")) == {"train/a0"}
    save(root / "images/train/a0.png", found[0].image)
    with pytest.raises(InputError, match=r"a0\.jpg and .*a0\.png are two images for one mask"):
        run(root, tmp_path / "other")


@pytest.mark.parametrize("given", [False, True])
def test_masks_of_a_lossy_format_are_named(tmp_path, given):
    root = tmp_path / "masks"
    for scene in full_scenes(2):
        save(root / f"images/{scene.name}.jpg", scene.image)
        save(root / f"masks/{scene.name}.jpg", as_rgb(scene))
    (root / "classes.txt").write_text(CLASSES)
    options = Options(images=root / "images", labels=root / "masks") if given else Options()
    with pytest.raises(InputError, match="2 masks, such as .*a0.jpg, are in a format that can"):
        run(root, tmp_path / "mine", options=options)


def test_lossy_masks_and_damaged_files(tmp_path):
    found = full_scenes(3)
    root = export(tmp_path / "masks", found, as_rgb)
    (root / "classes.txt").write_text(CLASSES)
    save(root / "labels/train/a0.png", as_rgb(found[0]), format="JPEG")
    (root / "labels/train/a1.png").write_bytes(b"rubbish")
    with pytest.raises(InputError) as error:
        run(root, tmp_path / "mine")
    first, second, last = str(error.value).split("\n")
    assert "a0.png is a JPEG file. Lossy" in first and "a1.png cannot be read" in second
    assert last == (
        "2 of 3 images cannot be imported. Nothing was written. To leave them out, add "
        "--skip-errors."
    )
    assert not (tmp_path / "mine").exists()
    assert_equal(run(root, tmp_path / "mine", skip_errors=True), found[2:])
    assert subprocess.run(["ls", tmp_path / "mine"], capture_output=True).stdout.split() == [
        b"classes.txt", b"images", b"import.json", b"labels",
    ]  # fmt: skip
