import hashlib

import numpy as np
import pytest

from sar.points.rooms import CHANCES, CLASS_NAMES, COLORS, furnish, paint, scan

EVERYTHING = {name: (1.0,) for name in CHANCES}


@pytest.fixture(scope="module")
def scanned():
    generator = np.random.default_rng(0)
    points = scan(furnish(generator, EVERYTHING), 20_000, generator)
    return points, paint(points, generator)


def of(points, name):
    return points.labels == CLASS_NAMES.index(name)


def test_a_room_has_the_things_of_its_chances():
    none = dict.fromkeys(CHANCES, ())
    names = [name for name, _ in furnish(np.random.default_rng(0), none)]
    assert names == ["floor", "wall", "table"]
    chances = none | {"chair": (1.0, 0.0, 1.0), "cup": (1.0,), "ball": (0.0,)}
    names = [name for name, _ in furnish(np.random.default_rng(0), chances)]
    assert names == ["floor", "wall", "table", "cup", "chair", "chair"]


def test_things_stand_apart_on_the_floor_and_on_the_table():
    for seed in range(20):
        room = furnish(np.random.default_rng(seed), EVERYTHING | {"chair": (1.0, 1.0, 1.0)})
        boxes = {}
        for number, (name, faces) in enumerate(room[2:]):
            corners = faces.reshape(-1, 3)
            boxes[name, number] = corners.min(axis=0), corners.max(axis=0)
            lowest = corners[:, 2].min()
            on_table = name in ("bottle", "cup")
            assert lowest == pytest.approx(0.74, abs=0.02) if on_table else 0 <= lowest < 0.05
        ((table_low, table_high),) = [box for (name, _), box in boxes.items() if name == "table"]
        for (name, _), (low, high) in boxes.items():
            if name in ("bottle", "cup"):
                assert (low >= table_low - 0.02)[:2].all() and (high <= table_high + 0.02)[:2].all()
        # The middles of things on the floor have places of their own.
        middles = [
            (low + high)[:2] / 2
            for (name, _), (low, high) in boxes.items()
            if name not in ("bottle", "cup")
        ]
        distances = np.linalg.norm(np.array(middles)[:, None] - np.array(middles), axis=-1)
        assert distances[~np.eye(len(middles), dtype=bool)].min() > 0.9


def test_points_lie_on_the_faces_and_normals_point_outwards(scanned):
    points, _ = scanned
    floor, wall = of(points, "floor"), of(points, "wall")
    assert np.abs(points.positions[floor, 2]).max() < 0.06  # six deviations of the noise
    assert points.normals[floor].mean(axis=0) == pytest.approx([0, 0, 1], abs=0.02)
    size = np.abs(points.positions[floor, :2]).max(axis=0)
    gaps = np.abs(np.abs(points.positions[wall, :2]) - size).min(axis=1)
    assert gaps.max() < 0.12
    inwards = (points.positions * points.normals)[wall][:, :2].sum(axis=1)
    assert inwards.max() < 0
    for name in ("cabinet", "box", "ball"):
        chosen = of(points, name)
        offsets = points.positions[chosen]
        offsets = offsets - (offsets.min(axis=0) + offsets.max(axis=0)) / 2
        assert ((offsets * points.normals[chosen]).sum(axis=1) > 0).mean() > 0.98
    lengths = np.linalg.norm(points.normals, axis=1)
    assert lengths.mean() == pytest.approx(1, abs=0.03)


def test_small_things_have_few_points(scanned):
    counts = np.bincount(scanned[0].labels, minlength=len(CLASS_NAMES))
    assert counts.min() > 0
    assert set(np.argsort(counts)[:2]) == {CLASS_NAMES.index(name) for name in ("bottle", "cup")}


def test_a_thing_has_one_paint_with_noise(scanned):
    points, colors = scanned
    assert colors.dtype == np.uint8 and colors.shape == points.positions.shape
    for thing in np.unique(points.things):
        of_thing = colors[points.things == thing].astype(float)
        spread = of_thing.std(axis=0)
        assert (spread > 10).all() and (spread < 40).all()


def test_colour_alone_does_not_decide():
    """The best guess from the colour, with the frequencies of all classes equal, is often wrong."""
    counts = np.zeros((2, 8**3, len(CLASS_NAMES)))
    for part in (0, 1):
        generator = np.random.default_rng(part)
        for _ in range(25):
            points = scan(furnish(generator), 2000, generator)
            bins = paint(points, generator) // 32 @ [64, 8, 1]
            np.add.at(counts[part], (bins, points.labels), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    accuracy = shares[1][np.arange(8**3), shares[0].argmax(axis=1)].sum() / len(CLASS_NAMES)
    assert 1.2 / len(CLASS_NAMES) < accuracy < 0.45


def test_rooms_follow_from_the_generator():
    """Other rooms, other results of the example and of longtail_rooms."""
    generator = np.random.default_rng(0)
    points = scan(furnish(generator), 500, generator)
    digest = hashlib.sha256(points.positions.round(4).tobytes() + points.labels.tobytes())
    assert digest.hexdigest()[:16] == "0baea3e197e7e04b"


def test_classes_have_colours_of_their_own():
    assert len(set(COLORS)) == len(set(CLASS_NAMES)) == 10
