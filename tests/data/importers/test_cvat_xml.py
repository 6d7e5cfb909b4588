import numpy as np
import pytest

from sar.data.importers.run import Request, import_dataset
from sar.errors import InputError

from .miniature import NAMES, SIZE, assert_equal, new_scene, run, save, scenes

LABELS = "".join(
    f"<label><name>{name}</name><color>#{i}00000</color><attributes/></label>"
    for i, name in enumerate(NAMES)
)
META = f"<meta><task><labels>{LABELS}</labels></task></meta>"


def polygon(box, z_order=0):
    name, x0, y0, x1, y1 = box
    points = ";".join(f"{x}.00,{y}.00" for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))
    return f'<polygon label="{name}" source="manual" points="{points}" z_order="{z_order}"/>'


def rectangle(box):
    name, x0, y0, x1, y1 = box
    return f'<box label="{name}" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}" z_order="0"/>'


def turned(box):
    """A box with swapped sides, turned by a right angle."""
    name, x0, y0, x1, y1 = box
    x, y, a, b = (x0 + x1) / 2, (y0 + y1) / 2, (y1 - y0) / 2, (x1 - x0) / 2
    corners = f'xtl="{x - a}" ytl="{y - b}" xbr="{x + a}" ybr="{y + b}"'
    return f'<box label="{name}" {corners} rotation="90"/>'


def mask(box):
    """The rectangle in a frame that is one pixel wider on each side, also outside the image."""
    name, x0, y0, x1, y1 = box
    values = np.pad(np.ones((y1 - y0, x1 - x0), bool), 1).ravel()
    ends = np.flatnonzero(np.diff(values)) + 1
    lengths = np.diff([0, *ends, len(values)])
    return (
        f'<mask label="{name}" rle="{", ".join(map(str, lengths))}" left="{x0 - 1}" '
        f'top="{y0 - 1}" width="{x1 - x0 + 2}" height="{y1 - y0 + 2}" z_order="0"/>'
    )


def image_of(scene, shapes, subset=""):
    subset = subset and f'subset="{subset}"'
    return (
        f'<image id="0" name="{scene.name}.jpg" {subset} width="{SIZE[1]}" height="{SIZE[0]}">\n'
        + "\n".join(shapes) + "\n</image>"
    )  # fmt: skip


def export(root, images, meta=META):
    for found in scenes(4):
        save(root / "images" / f"{found.name}.jpg", found.image)
    path = root / "annotations.xml"
    body = "\n".join(images)
    path.write_text(f'<?xml version="1.0"?>\n<annotations>\n{meta}\n{body}\n</annotations>')
    return root


@pytest.mark.parametrize("encode", [polygon, rectangle, turned, mask])
def test_each_kind_of_shape(tmp_path, encode):
    found = scenes()
    root = export(tmp_path / "cvat", [image_of(s, map(encode, s.boxes)) for s in found])
    assert_equal(run(root, tmp_path / "mine", shares=[1]), found)
    assert_equal(run(root / "annotations.xml", tmp_path / "file", shares=[1]), found)
    assert (tmp_path / "mine/classes.txt").read_text().split() == ["background", *NAMES]


def test_z_order_decides_before_the_place_in_the_file(tmp_path):
    found = new_scene("a0")
    shapes = [polygon(box, z_order=i) for i, box in enumerate(found.boxes)]
    root = export(tmp_path / "cvat", [image_of(found, reversed(shapes))])
    assert_equal(run(root, tmp_path / "mine"), [found])


def test_subsets_are_splits_and_classes_need_no_meta(tmp_path):
    found = scenes()
    subsets = ("Train", "Validation", "Train")
    images = [image_of(s, map(polygon, s.boxes), x) for s, x in zip(found, subsets, strict=True)]
    imported = run(export(tmp_path / "cvat", images, meta=""), tmp_path / "mine")
    assert_equal(imported, [found[0], found[2]], "train")
    assert_equal(imported, [found[1]], "val")


@pytest.mark.parametrize("images, xml", [("images/{split}", "{part}"), ("images", "{split}")])
def test_folders_and_names_of_files_are_splits(tmp_path, images, xml):
    found = scenes(4)
    for names in ({"split": "train", "part": 0}, {"split": "val", "part": 1}):
        scenes_of_split = found[names["part"] :: 2]
        body = [image_of(scene, map(polygon, scene.boxes)) for scene in scenes_of_split]
        path = export(tmp_path / "task", body) / "annotations.xml"
        for scene in scenes_of_split:
            folder = tmp_path / "cvat" / images.format(**names)
            save(folder / f"{scene.name}.jpg", scene.image)
        path.rename(tmp_path / "cvat" / f"{xml.format(**names)}.xml")
    imported = run(tmp_path / "cvat", tmp_path / "mine")
    assert_equal(imported, found[::2], "train")
    assert_equal(imported, found[1::2], "val")


def test_an_ellipse_has_the_pixels_whose_centres_are_inside(tmp_path):
    ellipse = '<ellipse label="kerb" cx="20" cy="14.5" rx="11.3" ry="6.2" rotation="30"/>'
    root = export(tmp_path / "cvat", [image_of(new_scene("a0"), [ellipse])])
    (label,) = run(root, tmp_path / "mine").values()
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    angle = np.deg2rad(30)
    along = (x - 20) * np.cos(angle) + (y - 14.5) * np.sin(angle)
    across = -(x - 20) * np.sin(angle) + (y - 14.5) * np.cos(angle)
    expected = (along / 11.3) ** 2 + (across / 6.2) ** 2
    # Pixels within 0.1 of the outline may differ.
    near = np.abs(np.sqrt(expected) - 1) < 0.1
    np.testing.assert_array_equal((label == "kerb")[~near], (expected < 1)[~near])
    assert near.sum() < 0.5 * (expected < 1).sum()


def test_what_has_no_area_is_reported(tmp_path, capsys):
    found = new_scene("a0")
    lines = [
        '<polyline label="kerb" points="1,2;3,4"/>',
        '<points label="bollard" points="1,2"/>',
    ] * 2
    tag = '<tag label="gravel"/>'
    shapes = [*lines, *map(polygon, found.boxes), tag]
    images = [
        image_of(found, shapes),
        image_of(new_scene("a1"), lines),
        image_of(new_scene("a9"), []),
    ]
    root = export(tmp_path / "cvat", images)
    import_dataset(Request(root, tmp_path / "mine", dry_run=True))
    out = capsys.readouterr().out
    assert "4 x polyline, which has no area (kerb 4)" in out
    assert "4 x points, which has no area (bollard 4)" in out
    assert "1 images have no shape and were left out; with --keep-empty" in out
    assert "1 annotated images are not there: a9.jpg." in out
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    "shape, message",
    [
        ('<polygon label="kerb" points="1,2;3"/>', r"line 5 \(polygon of \"kerb\"\): Its points"),
        ('<polygon label="kerb" points="1,2;3,x;4,4"/>', r"line 5 .*: could not convert"),
        ('<polygon label="kerb"/>', "line 5 .*: The attribute 'points' is missing"),
        ('<mask label="kerb" rle="1,2" left="0" top="0" width="2" height="2"/>', "cover 3 pixels"),
        (
            '<mask label="kerb" rle="9,-5" left="0" top="0" width="2" height="2"/>',
            "not whole numbers",
        ),
        ('<polygon points="1,2;3,4;5,6"/>', "line 5: the polygon has no label"),
        ('<blob label="kerb"/>', "line 5: <blob> is not a shape"),
        ('<box label="kerb" z_order="x"/>', "line 5: z_order"),
        ('<polygon label="kerb">', "cannot be read as XML"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, shape, message):
    root = export(tmp_path / "cvat", [image_of(new_scene("a0"), [shape])])
    with pytest.raises(InputError, match=message) as error:
        run(root, tmp_path / "mine")
    assert str(root / "annotations.xml") in str(error.value)


def test_tracks_of_a_video_are_refused(tmp_path):
    root = export(tmp_path / "cvat", ['<track id="0" label="kerb"></track>'])
    with pytest.raises(InputError, match=r'line 4: .* tracks .* "CVAT for images 1\.1"'):
        run(root, tmp_path / "mine")


def test_a_document_type_is_refused_before_its_entities_expand(tmp_path):
    root = export(tmp_path / "cvat", ["&a;"])
    path = root / "annotations.xml"
    document_type = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><annotations>'
    path.write_text(path.read_text().replace("<annotations>", document_type))
    with pytest.raises(InputError, match=r"annotations\.xml has a document type"):
        run(root, tmp_path / "mine")


def test_the_frames_of_a_video_have_no_suffix(tmp_path):
    found = scenes()
    images = [image_of(scene, map(polygon, scene.boxes)).replace(".jpg", "") for scene in found]
    root = export(tmp_path / "cvat", images)
    assert_equal(run(root, tmp_path / "mine", shares=[1]), found)


def test_subsets_of_ones_own_are_folders(tmp_path):
    day, night = new_scene("day/a"), new_scene("night/a", seed=1)
    images = []
    for scene, subset in ((day, "day"), (night, "night")):
        image = image_of(scene, map(polygon, scene.boxes), subset)
        images.append(image.replace(f'name="{subset}/', 'name="'))
        save(tmp_path / "cvat/images" / f"{scene.name}.jpg", scene.image)
    root = export(tmp_path / "cvat", images)
    assert_equal(run(root, tmp_path / "mine", shares=[1]), [day, night])
