"""Small scenes with known labels, to be written in the formats of annotation tools."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sar.data.datasets.class_file import read_class_file
from sar.data.importers.run import Request, import_dataset

NAMES = ("gravel", "kerb", "bollard")
SIZE = 30, 44  # height, width
COLORS = ((10, 20, 30), (255, 0, 0), (0, 255, 1))


@dataclass
class Scene:
    """An image with rectangles; later ones cover earlier ones.

    Attributes:
        boxes: class name, and x0, y0, x1, y1 in whole pixels.
        truth: (H, W) class names; "" where no rectangle is.
    """

    name: str
    boxes: list
    truth: np.ndarray

    @property
    def image(self):
        values = np.random.default_rng(len(self.name)).integers(0, 256, (*SIZE, 3))
        return Image.fromarray(values.astype(np.uint8))

    def polygons(self):
        """Return each rectangle as its class and a list of corners."""
        return [(n, [[a, b], [c, b], [c, d], [a, d]]) for n, a, b, c, d in self.boxes]

    def ids(self, names=NAMES, nothing=255):
        """Return (H, W) uint8: the places of the classes in `names`."""
        table = {name: i for i, name in enumerate(names)} | {"": nothing}
        return np.vectorize(table.get)(self.truth).astype(np.uint8)


def new_scene(name, seed=0, num_boxes=5, names=NAMES):
    rng = np.random.default_rng(seed)
    truth = np.full(SIZE, "", dtype="<U16")
    boxes = []
    for index in range(num_boxes):
        x0, y0 = int(rng.integers(0, SIZE[1] - 8)), int(rng.integers(0, SIZE[0] - 8))
        x1, y1 = int(rng.integers(x0 + 3, SIZE[1] + 1)), int(rng.integers(y0 + 3, SIZE[0] + 1))
        box = names[index % len(names)], x0, y0, x1, y1
        boxes.append(box)
        truth[y0:y1, x0:x1] = box[0]
    return Scene(name, boxes, truth)


def scenes(number=3, prefix="a"):
    return [new_scene(f"{prefix}{i}", seed=i) for i in range(number)]


def full_scene(name, seed=0):
    """A scene in which each pixel has a class."""
    found = new_scene(name, seed)
    found.boxes.insert(0, (NAMES[0], 0, 0, SIZE[1], SIZE[0]))
    found.truth[found.truth == ""] = NAMES[0]
    return found


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, **options)
    return path


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def run(source, output, **options):
    import_dataset(Request(Path(source), Path(output), quiet=True, **options))
    return labels(output)


def labels(folder):
    """Return the labels of a data set folder as class names, by "split/name"."""
    names = [name for name, _ in read_class_file(folder / "classes.txt")]
    ignore = 65535 if len(names) > 255 else 255
    table = np.array([*names, *[f"id {i}" for i in range(len(names), ignore)], "ignored"])
    result = {}
    for path in sorted((folder / "labels").rglob("*.png")):
        key = path.relative_to(folder / "labels").with_suffix("").as_posix()
        images = list((folder / "images").glob(f"{key}.*"))
        assert len(images) == 1, (key, images)
        result[key] = table[np.array(Image.open(path))]
    return result


def assert_equal(found, scenes, split="train", nothing="background"):
    """Compare the labels of scenes, which all are in one split."""
    of_split = {key: value for key, value in found.items() if key.startswith(f"{split}/")}
    assert set(of_split) == {f"{split}/{scene.name}" for scene in scenes}
    for scene in scenes:
        expected = np.where(scene.truth == "", nothing, scene.truth)
        np.testing.assert_array_equal(of_split[f"{split}/{scene.name}"], expected)
