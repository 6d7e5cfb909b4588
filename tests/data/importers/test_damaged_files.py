"""Annotation files with random damage are imported or refused; they never raise another error."""

import json
import random
import warnings

import pytest

from sar.data.importers import tree
from sar.data.importers.run import Request, import_dataset
from sar.errors import InputError

from . import test_coco, test_cvat_xml, test_label_studio, test_labelme, test_masks, test_yolo
from .miniature import scenes

ODD = [
    None, True, -1, 0, 3, 1e9, float("nan"), float("inf"), 10**30, "", "x", "\x1b", "../../etc",
    [], [[]], [1], [[1, 2]], [None], {}, {"a": 1}, "0,0,0",
]  # fmt: skip
WORDS = [b"9999999999", b"nan", b"inf", b"-", b"\n", b"\0", b'"', b"<", b"\xff", b","]


def coco(root):
    return test_coco.export(root, scenes(2), test_coco.as_runs)


def coco_polygons(root):
    return test_coco.export(root, scenes(2))


def coco_panoptic(root):
    return test_coco.panoptic(root, scenes(2))


def labelme(root):
    return test_labelme.export(root, scenes(2), test_labelme.mask) / "a0.json"


def labelstudio(root):
    return test_label_studio.export(root, scenes(2), test_label_studio.turned) / "project.json"


def labelstudio_brush(root):
    return test_label_studio.export(root, scenes(1), test_label_studio.brush) / "project.json"


def cvat(root):
    kinds = [getattr(test_cvat_xml, name) for name in ("polygon", "mask", "turned", "rectangle")]
    images = [
        test_cvat_xml.image_of(s, [f(b) for f, b in zip(kinds, s.boxes, strict=False)])
        for s in scenes(2)
    ]
    return test_cvat_xml.export(root, images) / "annotations.xml"


def yolo(root):
    return test_yolo.export(root, scenes(2)) / "labels/train/a0.txt"


def yolo_classes(root):
    return test_yolo.export(root, scenes(2), yaml="train: images/train\n") / "data.yaml"


def roboflow(root):
    test_masks.roboflow(root, test_masks.full_scenes(2), "train")
    return root / "train/_classes.csv"


def places(value, path=()):
    """Yield the keys that lead to each value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def damaged_json(text, choose):
    content = json.loads(text)
    depth = choose.randint(1, 8)
    *path, last = choose.choice([path for path in places(content) if len(path) <= depth])
    target = content
    for key in path:
        target = target[key]
    if choose.random() < 0.3:
        del target[last]
    else:
        target[last] = choose.choice(ODD)
    return json.dumps(content).encode()


def damaged_text(text, choose):
    content = bytearray(text)
    for _ in range(choose.choice([1, 2, 8])):
        place = choose.randrange(len(content))
        content[place : place + choose.choice([0, 0, 1, 5, 30])] = choose.choice(WORDS)
    return bytes(content)


@pytest.mark.parametrize(
    "make",
    [coco, coco_polygons, coco_panoptic, labelme, labelstudio, labelstudio_brush, cvat, yolo,
     yolo_classes, roboflow],
)  # fmt: skip
def test_damage_is_refused_or_harmless(tmp_path, make):
    path = make(tmp_path / "export")
    text = path.read_bytes()
    damage = damaged_json if path.suffix == ".json" else damaged_text
    outcomes = set()
    for seed in range(15):
        choose = random.Random(f"{make.__name__} {seed}")
        path.write_bytes(damage(text, choose))
        tree.read_json.cache_clear()
        request = Request(
            tmp_path / "export",
            tmp_path / "mine",
            format=make.__name__.split("_")[0],
            skip_errors=choose.random() < 0.3,
            dry_run=True,
            quiet=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="__array__")  # by pycocotools itself
            try:
                import_dataset(request)
                outcomes.add("imported")
            except InputError as error:
                assert str(error)
                outcomes.add("refused")
    assert "refused" in outcomes
