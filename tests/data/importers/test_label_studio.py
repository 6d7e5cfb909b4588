import base64
import io

import numpy as np
import pytest
from PIL import Image

from sar.data.importers.label_studio import decode_brush
from sar.data.importers.run import Request, import_dataset
from sar.errors import InputError

from .miniature import SIZE, assert_equal, new_scene, run, save, scenes, write_json


def bits(value, number):
    return format(value, f"0{number}b")


def encode_brush(values, word=8, sizes=(3, 4, 8, 16)):
    """Run lengths, and single values where runs are short; the greatest fitting size of each."""
    stream = bits(len(values), 32) + bits(word - 1, 5) + "".join(bits(s - 1, 4) for s in sizes)
    ends = [*np.flatnonzero(np.diff(values)) + 1, len(values)]
    start = 0
    for end in map(int, ends):
        while start < end:
            size = next((i for i, s in enumerate(sizes) if end - start <= 2**s), len(sizes) - 1)
            length = min(end - start, 2 ** sizes[size])
            single = length <= 2
            stream += "0" if single else "1"
            stream += bits(size, 2) + bits(length - 1, sizes[size])
            stream += bits(int(values[start]), word) * (length if single else 1)
            start += length
    stream += "0" * (-len(stream) % 8)
    return [int(stream[i : i + 8], 2) for i in range(0, len(stream), 8)]


@pytest.mark.parametrize("word, sizes", [(8, (3, 4, 8, 16)), (8, (1, 2, 5, 9)), (3, (2, 3, 4, 5))])
def test_brushes_are_decoded(word, sizes):
    rng = np.random.default_rng(0)
    values = np.repeat(rng.integers(0, 2**word, 60), rng.integers(1, 90, 60))
    found = decode_brush(encode_brush(values, word, sizes), len(values))
    np.testing.assert_array_equal(found, values)


def test_damaged_brushes():
    rle = encode_brush(np.zeros(400, int))
    with pytest.raises(ValueError, match="has 400 values, but its image needs 404"):
        decode_brush(rle, 404)
    with pytest.raises(ValueError, match="end early"):
        decode_brush(rle[:-2], 400)
    with pytest.raises(ValueError, match="longer"):
        decode_brush([*rle[:2], 0, 3, *rle[4:]], 3)


def entry(box, **value):
    return {
        "id": str(box), "type": value.pop("type"), "value": value, "from_name": "x", "to_name": "y",
        "original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0,
    }  # fmt: skip


def polygon(box):
    name, x0, y0, x1, y1 = box
    points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    points = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in points]
    return entry(box, type="polygonlabels", points=points, closed=True, polygonlabels=[name])


def as_rectangle(box, x, y, width, height, rotation):
    return entry(
        box, type="rectanglelabels", rectanglelabels=[box[0]], rotation=rotation,
        x=100 * x / SIZE[1], y=100 * y / SIZE[0],
        width=100 * width / SIZE[1], height=100 * height / SIZE[0],
    )  # fmt: skip


def rectangle(box):
    _, x0, y0, x1, y1 = box
    return as_rectangle(box, x0, y0, x1 - x0, y1 - y0, rotation=0)


def turned(box):
    """A rectangle with swapped sides, turned clockwise around its corner."""
    _, x0, y0, x1, y1 = box
    return as_rectangle(box, x1, y0, y1 - y0, x1 - x0, rotation=90)


def brush(box):
    name, x0, y0, x1, y1 = box
    rgba = np.zeros((*SIZE, 4), int)
    rgba[y0:y1, x0:x1] = 9, 8, 7, 255
    return entry(
        box, type="brushlabels", format="rle", rle=encode_brush(rgba.ravel()), brushlabels=[name]
    )


def with_separate_labels(box):
    """As <Labels> and <Polygon> of a labelling interface write it, as a pair."""
    found = polygon(box)
    (name,) = found["value"].pop("polygonlabels")
    return [found | {"type": "polygon"},
            found | {"type": "labels", "value": found["value"] | {"labels": [name]}}]  # fmt: skip


def task(scene, encode, url="/data/upload/3/1a2b3c4d-{}.jpg", **changes):
    results = []
    for box in scene.boxes:
        found = encode(box)
        results += found if isinstance(found, list) else [found]
    annotation = {"id": 1, "result": results, "was_cancelled": False, "ground_truth": False}
    return {
        "id": 5,
        "annotations": [annotation],
        "data": {"image": url.format(scene.name)},
    } | changes


def export(root, found, encode=polygon, **changes):
    for scene in found:
        save(root / "images" / f"{scene.name}.jpg", scene.image)
    write_json(root / "project.json", [task(scene, encode, **changes) for scene in found])
    return root


def bitmask(box, size=SIZE):
    name, x0, y0, x1, y1 = box
    values = np.zeros((*size, 4), np.uint8)
    values[y0:y1, x0:x1] = 255, 0, 0, 255
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return entry(box, type="bitmasklabels", imageDataURL=url, bitmasklabels=[name])


@pytest.mark.parametrize(
    "encode", [polygon, rectangle, turned, brush, bitmask, with_separate_labels]
)
def test_each_kind_of_region(tmp_path, encode):
    found = scenes()
    root = export(tmp_path / "studio", found, encode)
    assert_equal(run(root, tmp_path / "mine", shares=[1]), found)


@pytest.mark.parametrize(
    "url", ["{}.jpg", "https://host/x/{}.jpg?token=a", "/data/local-files/?d=images/{}.jpg",
            "s3://bucket/x%20y/{}.jpg"],
)  # fmt: skip
def test_names_of_images(tmp_path, url):
    found = scenes(2)
    root = export(tmp_path / "studio", found, url=url)
    assert_equal(run(root, tmp_path / "mine", shares=[1]), found)


def test_which_annotation_counts(tmp_path, capsys):
    found = scenes(3)
    tasks = [task(scene, polygon) for scene in found]
    wrong = task(new_scene("x", seed=9), polygon)["annotations"][0]
    true = [task["annotations"][0] for task in tasks]
    tasks[0]["annotations"] = [true[0] | {"ground_truth": True}, wrong]
    tasks[1]["annotations"] = [wrong, true[1]]
    tasks[2]["annotations"] = [true[2], wrong | {"was_cancelled": True}]
    root = export(tmp_path / "studio", found)
    tasks += [task(new_scene("x"), polygon, annotations=[])]
    tasks += [task(new_scene("y"), polygon, annotations=[wrong | {"was_cancelled": True}])]
    write_json(root / "project.json", tasks)
    assert_equal(run(root, tmp_path / "mine", shares=[1]), found)
    import_dataset(Request(root, tmp_path / "mine", dry_run=True))
    out = capsys.readouterr().out
    assert "2 tasks have several annotations" in out
    assert "2 tasks have no annotation, or a cancelled one. They were left out." in out


@pytest.mark.parametrize(
    "change, message",
    [
        ({"value": {"points": [[1]], "polygonlabels": ["kerb"]}}, r"region 7 \(polygon of "),
        ({"value": {"polygonlabels": ["a", "b"]}}, "region 7; it has the labels a, b"),
        ({"value": {"rle": [0, 0], "brushlabels": ["kerb"]}}, "region 7 .* end early"),
        ({"value": {"x": 3, "width": 3, "rectanglelabels": ["kerb"]}}, "region 7 .*no valid 'y'"),
        ({"image_rotation": 90}, "the image is rotated by 90 degrees"),
        ({"original_width": 99}, "regions name images of different sizes"),
    ],
)  # fmt: skip
def test_errors_name_the_file_the_task_and_the_region(tmp_path, change, message):
    root = export(tmp_path / "studio", scenes(1))
    broken = task(new_scene("a0"), polygon)
    broken["annotations"][0]["result"][1] |= {"id": "7"} | change
    write_json(root / "project.json", [broken])
    with pytest.raises(InputError, match=message.replace(";", ".*")) as error:
        run(root, tmp_path / "mine")
    assert "project.json, task 1 (id 5)" in str(error.value)


def test_a_rotated_image_is_left_out_with_skip_errors(tmp_path):
    found = scenes(3)
    tasks = [task(scene, polygon) for scene in found]
    tasks[1]["annotations"][0]["result"][0]["image_rotation"] = 90
    root = export(tmp_path / "studio", found)
    write_json(root / "project.json", tasks)
    imported = run(root, tmp_path / "mine", shares=[1], skip_errors=True)
    assert set(imported) == {"train/a0", "train/a2"}


def test_the_name_of_an_image_is_no_split(tmp_path):
    found = [new_scene(name) for name in ("street_1", "test_shot", "train_2")]
    root = export(tmp_path / "studio", found, url="/data/upload/3/1a2b3c4d-{}.jpg")
    assert len(run(root, tmp_path / "mine", shares=[1])) == 3
    assert not list((tmp_path / "mine" / "images").glob("test/*"))


def test_a_task_without_an_image(tmp_path):
    root = export(tmp_path / "studio", scenes(1), data={"text": "a0"})
    with pytest.raises(InputError, match=r"task 1 \(id 5\): its data names no image file"):
        run(root, tmp_path / "mine")


def test_a_bitmask_of_another_size_or_format_is_an_error(tmp_path):
    def small(box):
        return bitmask(box, size=(2, 3))

    def broken(box):
        found = bitmask(box)
        found["value"]["imageDataURL"] = "data:image/png;base64,AAAA"
        return found

    for encode, message in (
        (small, "bitmask is 3 x 2, but"),
        (broken, "bitmask cannot be read as PNG"),
    ):
        root = export(tmp_path / encode.__name__, scenes(1), encode)
        with pytest.raises(InputError, match=message):
            run(root, tmp_path / "mine")


def test_the_number_of_a_project_is_no_folder(tmp_path):
    found = scenes(2)
    root = export(tmp_path / "studio", found, url="/data/upload/3/1a2b3c4d-{}.jpg")
    save(root / "images/3/other.jpg", found[0].image)
    assert set(run(root, tmp_path / "mine", shares=[1])) == {"train/a0", "train/a1"}
