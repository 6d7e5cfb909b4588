"""Generated rooms: furniture and small things as faces, and points that a scanner sees on them.

Floor, walls and a table are in every room. Bottles and cups are small, and stand on the table.
Lengths are in metres, z points up, and the origin is the middle of the floor.

Shape shorthands: L points of a room, Q faces (four corners each).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sar.points.geometry import rotation_about

# Class names and their colours (r, g, b) in pictures.
CLASSES = {
    "floor": (217, 207, 188),
    "wall": (179, 195, 207),
    "table": (140, 86, 75),
    "cabinet": (31, 119, 180),
    "chair": (44, 160, 44),
    "box": (188, 189, 34),
    "lamp": (148, 103, 189),
    "ball": (255, 127, 14),
    "bottle": (214, 39, 40),
    "cup": (227, 119, 194),
}
CLASS_NAMES = tuple(CLASSES)
COLORS = tuple(CLASSES.values())

# The probability of each further thing in a room. There is one table, and room for eight things on
# the floor, one bottle and one cup.
CHANCES = {
    "cabinet": (0.7,),
    "chair": (0.6, 0.6),
    "box": (0.6,),
    "lamp": (0.5,),
    "ball": (0.4,),
    "bottle": (0.4,),
    "cup": (0.4,),
}
_ON_FLOOR = ("cabinet", "chair", "box", "lamp", "ball")
_ON_TABLE = {"bottle": -0.3, "cup": 0.3}  # and the middle of their place along the table

_WALL_HEIGHT, _TABLE_HEIGHT = 2.0, 0.74
# Things have more points per square metre than floor and walls, as if a scanner moved around them.
_THING_DENSITY = 6
_POSITION_NOISE, _NORMAL_NOISE = 0.01, 0.1  # standard deviations
# Things are blocks (size, middle), or profiles (radius, height) rotated about the vertical axis.
_BLOCKS = {
    "table": [
        ((1.1, 0.7, 0.04), (0, 0, _TABLE_HEIGHT - 0.02)),
        *[((0.05, 0.05, 0.7), (x, y, 0.35)) for x in (-0.5, 0.5) for y in (-0.3, 0.3)],
    ],
    "cabinet": [((0.8, 0.4, 1.4), (0, 0, 0.7))],
    "chair": [
        ((0.42, 0.42, 0.04), (0, 0, 0.45)),
        ((0.42, 0.04, 0.45), (0, 0.19, 0.7)),
        *[((0.05, 0.05, 0.43), (x, y, 0.215)) for x in (-0.18, 0.18) for y in (-0.18, 0.18)],
    ],
    "box": [((0.42, 0.3, 0.3), (0, 0, 0.15))],
}
_PROFILES = {
    "lamp": [(0, 0.02), (0.13, 0.02), (0.015, 0.03), (0.015, 1.4), (0.19, 1.4), (0.1, 1.65)],
    "ball": [(0, 0), (0.1, 0.04), (0.14, 0.14), (0.1, 0.24), (0, 0.28)],
    "bottle": [(0.045, 0), (0.045, 0.18), (0.015, 0.23), (0.015, 0.3), (0, 0.3)],
    "cup": [(0.04, 0), (0.05, 0.1), (0.045, 0.1), (0.035, 0.01), (0, 0.01)],
}

# Each thing has one of the paints of its class. All paints belong to several classes.
_PAINTS = {
    "white": (222, 219, 210),
    "grey": (132, 132, 136),
    "black": (48, 46, 50),
    "brown": (128, 88, 56),
    "sand": (196, 170, 128),
    "red": (172, 58, 48),
    "green": (70, 122, 84),
    "blue": (66, 98, 156),
}
_PAINTS_OF_CLASS = {
    "floor": ("brown", "sand", "grey"),
    "wall": ("white", "white", "sand", "blue"),
    "table": ("brown", "white", "black"),
    "cabinet": ("white", "brown", "grey", "blue"),
    "chair": ("black", "brown", "red", "green"),
    "box": ("sand", "sand", "white", "blue"),
    "lamp": ("black", "white", "grey"),
    "ball": ("red", "green", "blue", "white"),
    "bottle": ("green", "green", "brown", "blue"),
    "cup": ("white", "red", "blue", "black"),
}
_PAINT_NOISE, _COLOR_NOISE = 14, 18  # standard deviations: of a thing, and of a point
_LIGHT = np.array([0.36, -0.48, 0.8])  # direction to the light, of length 1


class Scan(NamedTuple):
    """Points of a room: positions (L, 3), normals (L, 3), class ids (L,), numbers of things (L,).

    Normals are noisy and have a length of about 1. They point out of things, and into the room.
    """

    positions: np.ndarray
    normals: np.ndarray
    labels: np.ndarray
    things: np.ndarray


def furnish(
    generator: np.random.Generator, chances: Mapping[str, Sequence[float]] = CHANCES
) -> list[tuple[str, np.ndarray]]:
    """Return a room as pairs of a class and its faces (Q, 4, 3).

    The corners of a face are counterclockwise, seen from where the face is visible.

    Args:
        chances: the probability of each further thing, as `CHANCES`.
    """
    size = np.array([*generator.uniform(3.2, 4.0, size=2), _WALL_HEIGHT])
    _, floor, *walls = _block(size, (0, 0, _WALL_HEIGHT / 2))[:, ::-1]  # seen from inside
    room = [("floor", floor[None]), ("wall", np.stack(walls))]

    def add(name: str, place: np.ndarray, turn: np.ndarray) -> None:
        parts = [_block(*part) for part in _BLOCKS.get(name, [])] or [_turned(_PROFILES[name])]
        scale = np.array([1, 1, 1]) if name == "table" else generator.uniform(0.85, 1.15)
        room.append((name, np.concatenate(parts) * scale @ turn.T + place))

    # Nine places on the floor; each thing stands on its own place.
    cells = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], [0]), axis=-1).reshape(-1, 3)
    places = iter(generator.permutation(cells) * size / 3.1)
    table, turn = next(places), rotation_about(2, generator.uniform(0, 2 * np.pi))
    add("table", table, turn)
    for name, x in _ON_TABLE.items():
        for chance in chances[name]:
            if generator.random() < chance:
                x += generator.uniform(-0.2, 0.2)
                spot = [x, generator.uniform(-0.25, 0.25), _TABLE_HEIGHT]
                add(name, table + turn @ spot, turn)
    for name in _ON_FLOOR:
        for chance in chances[name]:
            if generator.random() < chance:
                add(name, next(places), rotation_about(2, generator.uniform(0, 2 * np.pi)))
    return room


def scan(
    room: list[tuple[str, np.ndarray]], num_points: int, generator: np.random.Generator
) -> Scan:
    """Return points on the faces of a room, with noise."""
    names, faces = zip(*room, strict=True)
    triangles = np.concatenate(faces)[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3, 3)
    things = np.repeat(np.arange(len(room)), [2 * len(f) for f in faces])
    labels = np.array([CLASS_NAMES.index(name) for name in names])[things]
    a, b, c = triangles.transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    weights = np.linalg.norm(normals, axis=1) * np.where(labels < 2, 1, _THING_DENSITY)
    ids = generator.choice(len(triangles), num_points, p=weights / weights.sum())
    # Uniform over each triangle.
    u, v = np.sqrt(generator.random((num_points, 1))), generator.random((num_points, 1))
    positions = (1 - u) * a[ids] + u * (1 - v) * b[ids] + u * v * c[ids]
    normals = normals[ids] / np.linalg.norm(normals[ids], axis=1, keepdims=True)
    positions += generator.normal(0, _POSITION_NOISE, positions.shape)
    normals += generator.normal(0, _NORMAL_NOISE, normals.shape)
    return Scan(positions, normals, labels[ids], things[ids])


def paint(points: Scan, generator: np.random.Generator) -> np.ndarray:
    """Return a colour (L, 3) uint8 for each point.

    A thing has one of the paints that are typical of its class, its faces are lit from one side,
    and each point has noise of its own.
    """
    first = np.unique(points.things, return_index=True)[1]  # a point of each thing
    paints = np.zeros((points.things.max() + 1, 3))
    for thing, label in zip(points.things[first], points.labels[first], strict=True):
        typical = _PAINTS_OF_CLASS[CLASS_NAMES[label]]
        paints[thing] = _PAINTS[typical[generator.integers(len(typical))]]
        paints[thing] += generator.normal(0, _PAINT_NOISE, 3)
    light = 0.75 + 0.25 * points.normals @ _LIGHT
    colors = paints[points.things] * light[:, None]
    colors += generator.normal(0, _COLOR_NOISE, colors.shape)
    return np.clip(np.rint(colors), 0, 255).astype(np.uint8)


def _block(size: Sequence[float], middle: Sequence[float]) -> np.ndarray:
    """Return the six faces (6, 4, 3) of a block, seen from outside, top and bottom first."""
    top = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]) / 2
    faces = [
        face for axis in range(3) for face in (np.roll(top, axis, 1), -np.roll(top, axis, 1)[::-1])
    ]
    return np.array(faces) * size + middle


def _turned(profile: list[tuple], sides: int = 16) -> np.ndarray:
    """Return the faces (Q, 4, 3) of a (radius, height) profile rotated about the vertical axis."""
    angles = np.linspace(0, 2 * np.pi, sides + 1)
    rings = np.array([[(r * np.cos(a), r * np.sin(a), z) for a in angles] for r, z in profile])
    lower, upper = rings[:-1], rings[1:]
    corners = (lower[:, :-1], lower[:, 1:], upper[:, 1:], upper[:, :-1])
    return np.stack(corners, axis=2).reshape(-1, 4, 3)
