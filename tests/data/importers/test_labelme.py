import base64
import io

import numpy as np
import pytest
from PIL import Image

from sar.data.importers.run import Request, import_dataset
from sar.data.importers.source import Options
from sar.errors import InputError

from .miniature import NAMES, SIZE, assert_equal, new_scene, run, save, scenes, write_json


def in_base64(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format)
    return base64.b64encode(buffer.getvalue()).decode()


def polygon(name, points):
    return {"label": name, "points": points, "shape_type": "polygon", "group_id": None, "flags": {}}


def rectangle(name, points):
    return polygon(name, points[::2]) | {"shape_type": "rectangle"}


def mask(name, points):
    """As labelme 5 writes it: the corners are pixels of the mask."""
    (x0, y0), (x1, y1) = points[::2]
    values = Image.fromarray(np.full((y1 - y0, x1 - x0), 255, np.uint8)).convert("1")
    corners = [[x0, y0], [x1 - 1, y1 - 1]]
    return polygon(name, corners) | {"shape_type": "mask", "mask": in_base64(values)}


def content(scene, encode=polygon, **changes):
    return {
        "version": "5.4.1", "flags": {}, "shapes": [encode(*found) for found in scene.polygons()],
        "imagePath": f"{scene.name}.jpg", "imageData": None,
        "imageHeight": SIZE[0], "imageWidth": SIZE[1],
    } | changes  # fmt: skip


def export(root, found, encode=polygon):
    for scene in found:
        save(root / f"{scene.name}.jpg", scene.image)
        write_json(root / f"{scene.name}.json", content(scene, encode))
    return root


def oriented(name, points):
    return polygon(name, points) | {"shape_type": "oriented_rectangle"}


def corners(name, points):
    """As X-AnyLabeling writes rectangles."""
    return polygon(name, points) | {"shape_type": "rectangle"}


def rotation(name, points):
    """As X-AnyLabeling writes rotated rectangles."""
    return polygon(name, points) | {"shape_type": "rotation", "direction": 0.0}


@pytest.mark.parametrize("encode", [polygon, rectangle, oriented, corners, rotation, mask])
def test_each_kind_of_shape(tmp_path, encode):
    found = scenes()
    imported = run(export(tmp_path / "labelme", found, encode), tmp_path / "mine", shares=[1])
    assert_equal(imported, found)
    # Sorted by name, after the background.
    names = (tmp_path / "mine/classes.txt").read_text().split()
    assert names == ["background", "bollard", "gravel", "kerb"]


def test_a_circle(tmp_path):
    circle = polygon("kerb", [[20, 15], [20, 24]]) | {"shape_type": "circle"}
    root = export(tmp_path / "labelme", [new_scene("a0")])
    write_json(root / "a0.json", content(new_scene("a0"), shapes=[circle]))
    (label,) = run(root, tmp_path / "mine").values()
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    radius = np.hypot(x - 20, y - 15)
    near = np.abs(radius - 9) < 0.3
    np.testing.assert_array_equal((label == "kerb")[~near], (radius < 9)[~near])


def test_an_embedded_image_is_written_as_it_is(tmp_path):
    found = scenes(2)
    for scene, format in zip(found, ("JPEG", "PNG"), strict=True):
        data = in_base64(scene.image, format)
        write_json(tmp_path / "labelme" / f"{scene.name}.json", content(scene, imageData=data))
    assert_equal(run(tmp_path / "labelme", tmp_path / "mine", shares=[1]), found)
    jpg, png = sorted((tmp_path / "mine/images/train").iterdir())
    assert (jpg.name, png.name) == ("a0.jpg", "a1.png")
    assert base64.b64encode(jpg.read_bytes()).decode() == in_base64(found[0].image, "JPEG")
    np.testing.assert_array_equal(np.array(Image.open(png)), np.array(found[1].image))


def test_folders_and_splits_are_kept(tmp_path):
    train, val = scenes(2), scenes(2)
    export(tmp_path / "labelme/train/street", train)
    export(tmp_path / "labelme/val/street", val)
    imported = run(tmp_path / "labelme", tmp_path / "mine")
    assert sorted(imported) == [f"{s}/street/a{i}" for s in ("train", "val") for i in (0, 1)]


def test_folders_of_images_are_splits(tmp_path):
    found = scenes(4)
    for scene, split in zip(found, ("train", "val", "train", "val"), strict=True):
        save(tmp_path / f"labelme/images/{split}/{scene.name}.jpg", scene.image)
        write_json(tmp_path / f"labelme/annotations/{scene.name}.json", content(scene))
    imported = run(tmp_path / "labelme", tmp_path / "mine")
    assert_equal(imported, found[::2], "train")
    assert_equal(imported, found[1::2], "val")


def test_two_files_for_one_image(tmp_path):
    root = export(tmp_path / "labelme", scenes(2))
    write_json(root / "old/a0.json", content(new_scene("a0")))
    with pytest.raises(InputError, match=r"a0\.json and .*old/a0\.json both annotate .*a0\.jpg"):
        run(root, tmp_path / "mine")


def test_ignored_and_background_shapes_and_lines(tmp_path, capsys):
    found = new_scene("a0", num_boxes=1)
    shapes = [
        *content(found)["shapes"],
        polygon("__ignore__", [[0, 0], [5, 0], [5, 5], [0, 5]]),
        polygon("_background_", [[5, 0], [9, 0], [9, 5], [5, 5]]),
        polygon("kerb", [[1, 1], [2, 2]]) | {"shape_type": "line"},
    ]
    root = export(tmp_path / "labelme", [found])
    write_json(root / "a0.json", content(found, shapes=shapes))
    (label,) = run(root, tmp_path / "mine").values()
    expected = np.where(found.truth == "", "background", found.truth)
    expected[:5, :5], expected[:5, 5:9] = "ignored", "background"
    np.testing.assert_array_equal(label, expected)
    import_dataset(Request(root, tmp_path / "again"))
    assert "1 x line, which has no area (kerb 1)" in capsys.readouterr().out


def test_a_class_file_orders_the_classes_and_leaves_others_out(tmp_path, capsys):
    found = scenes(2)
    root = export(tmp_path / "labelme", found)
    names = tmp_path / "names.txt"
    names.write_text("wall 9 9 9\nkerb 8 8 8\ngravel 7 7 7\n")
    options = Options(classes=names, renamed=[("gravel", "stone")])
    imported = run(root, tmp_path / "mine", options=options, shares=[1])
    for scene in found:
        expected = np.where(scene.truth == "", "background", scene.truth)
        expected[expected == "bollard"], expected[expected == "gravel"] = "ignored", "stone"
        np.testing.assert_array_equal(imported[f"train/{scene.name}"], expected)
    lines = (tmp_path / "mine/classes.txt").read_text().splitlines()
    assert lines == ["background 0 0 0", "wall 9 9 9", "kerb 8 8 8", "stone 7 7 7"]


MASK = mask("kerb", [[1, 2], 0, [4, 5]])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shapes": [{"points": []}]}, "shape 1, has no label"),
        ({"shapes": [polygon("kerb", [[1, 2], [3]])]}, r"shape 1 \(polygon of \"kerb\"\): "),
        ({"shapes": [rectangle("kerb", [[1, 2]])]}, "shape 1 .*: It needs two points"),
        ({"shapes": [MASK | {"mask": "%%"}]}, "shape 1 .*: It is not in base64"),
        ({"shapes": [MASK | {"mask": "aaaa"}]}, "shape 1 .*: The mask is damaged"),
        ({"imagePath": "gone.jpg"}, r"None of the 1 annotated images .* gone\.jpg"),
        ({"imagePath": "gone.jpg", "imageData": "%%"}, "imageData: It is not in base64"),
        ({"imagePath": "gone.jpg", "imageData": "aaaa"}, "cannot be read"),
        ({"imageHeight": 7}, "is for 44 x 7 pixels, but the image has 44 x 30"),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_shape(tmp_path, change, message):
    root = export(tmp_path / "labelme", scenes(1))
    write_json(root / "a0.json", content(new_scene("a0"), **change))
    with pytest.raises(InputError, match=message) as error:
        run(root, tmp_path / "mine")
    assert "a0.json" in str(error.value) or "annotated images" in message


def test_polygons_that_were_traced_are_reported(tmp_path, capsys):
    corners = [[2, 2], [9, 2], [12, 5], [12, 9], [9, 9], [9, 15], [3, 15], [2, 14]]
    root = export(tmp_path / "labelme", scenes(1))
    write_json(root / "a0.json", content(new_scene("a0"), shapes=[polygon("kerb", corners)]))
    import_dataset(Request(root, tmp_path / "mine", dry_run=True))
    assert "1 of 1 polygons with many points follow the pixels" in capsys.readouterr().out
    options = Options(fill="outline")
    import_dataset(Request(root, tmp_path / "mine", options=options, dry_run=True))
    assert "follow the pixels" not in capsys.readouterr().out


def test_a_damaged_file_is_named(tmp_path):
    root = export(tmp_path / "labelme", scenes(2))
    (root / "a1.json").write_text('{"shapes": [\n\n}')
    with pytest.raises(InputError, match=r"a1\.json cannot be read as JSON .*line 3"):
        run(root, tmp_path / "mine")


def test_names_that_differ_in_upper_case_are_reported(tmp_path, capsys):
    root = export(tmp_path / "labelme", scenes(1))
    shapes = [polygon("Kerb", [[0, 0], [9, 0], [9, 9]]), *content(new_scene("a0"))["shapes"]]
    write_json(root / "a0.json", content(new_scene("a0"), shapes=shapes))
    import_dataset(Request(root, tmp_path / "mine", dry_run=True))
    assert 'Kerb and kerb differ in upper case only. To merge them: --map "kerb=Kerb".' in (
        capsys.readouterr().out
    )
    assert set(NAMES) == {name for name, _ in new_scene("a0").polygons()}


def test_an_embedded_image_comes_before_a_file_of_the_same_name_elsewhere(tmp_path):
    mine, other = new_scene("cam2/a"), new_scene("cam1/a", seed=1)
    save(tmp_path / "labelme/cam1/a.jpg", other.image)
    record = content(mine, imagePath="a.jpg", imageData=in_base64(mine.image))
    write_json(tmp_path / "labelme/cam2/a.json", record)
    run(tmp_path / "labelme", tmp_path / "mine")
    (written,) = (tmp_path / "mine/images/train/cam2").iterdir()
    np.testing.assert_array_equal(np.array(Image.open(written)), np.array(mine.image))


def test_a_file_next_to_other_images_needs_its_image_there(tmp_path):
    found = export(tmp_path / "labelme", [new_scene("cam1/a"), new_scene("cam2/b")])
    write_json(found / "cam2/a.json", content(new_scene("cam2/a"), imagePath="a.jpg"))
    for scene in ("cam1/a", "cam2/b"):
        path = found / f"{scene}.json"
        write_json(path, content(new_scene(scene), imagePath=f"{scene[-1]}.jpg"))
    assert set(run(found, tmp_path / "mine", shares=[1])) == {"train/cam1/a", "train/cam2/b"}


def test_pictures_next_to_the_files_do_not_hide_the_images(tmp_path):
    found = scenes()
    for scene in found:
        save(tmp_path / f"labelme/pictures/{scene.name}.jpg", scene.image)
        save(tmp_path / f"labelme/json/{scene.name}_viz.png", scene.image)
        write_json(tmp_path / f"labelme/json/{scene.name}.json", content(scene))
    assert len(run(tmp_path / "labelme", tmp_path / "mine", shares=[1])) == 3
