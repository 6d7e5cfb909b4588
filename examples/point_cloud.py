#!/usr/bin/env python
"""Segment 3-D point clouds of rooms with and without SAR and CeCo, in plain PyTorch.

The rooms are generated. They contain floor, walls, furniture and small objects; the rarest objects
are bottles and cups. A room is a cloud of points with noisy positions and normals. The network is
small and similar to PointNet++: shared MLPs, and maxima over voxels of growing size. It is trained
in four ways, with the same initial weights and the same batches. The example needs
`pip install -e .[examples]`, but not detectron2.

Shape shorthands: N rooms, L points of a room, C embedding channels, K classes.
"""

import sys
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from comparison import (
    METHODS,
    Outcome,
    build_regularizers,
    compare,
    group_means,
    parse_args,
    plot_class_bars,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import nn
from tqdm import tqdm

from sar.cli import exit_code

CLASSES = {
    "floor": "#d9cfbc",
    "wall": "#b3c3cf",
    "table": "#8c564b",
    "cabinet": "#1f77b4",
    "chair": "#2ca02c",
    "box": "#bcbd22",
    "lamp": "#9467bd",
    "ball": "#ff7f0e",
    "bottle": "#d62728",
    "cup": "#e377c2",
}
CLASS_NAMES, COLORS = tuple(CLASSES), tuple(CLASSES.values())
NUM_CLASSES = len(CLASS_NAMES)
NUM_TRAIN, NUM_TEST = 24, 80  # rooms
NUM_POINTS = 2048  # of a room
BATCH_SIZE = 2  # rooms
VOXEL_SIZES = (0.1, 0.3, 1.0)  # metres
EMBED_DIM = 64

# The rooms. Lengths are in metres, and z points up. Things have more points per square metre than
# floor and walls, as if a scanner moved around them.
WALL_HEIGHT, TABLE_HEIGHT = 2.0, 0.74
THING_DENSITY = 6
POSITION_NOISE, NORMAL_NOISE = 0.01, 0.1  # standard deviations
# The probability of each further thing in a room; every room has one table.
CHANCES = {"cabinet": (0.7,), "chair": (0.6, 0.6), "box": (0.6,), "lamp": (0.5,), "ball": (0.4,)}
CHANCES_ON_TABLE = {"bottle": 0.4, "cup": 0.4}
# Things are blocks (size, middle), or profiles (radius, height) rotated about the vertical axis.
BLOCKS = {
    "table": [
        ((1.1, 0.7, 0.04), (0, 0, TABLE_HEIGHT - 0.02)),
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
PROFILES = {
    "lamp": [(0, 0.02), (0.13, 0.02), (0.015, 0.03), (0.015, 1.4), (0.19, 1.4), (0.1, 1.65)],
    "ball": [(0, 0), (0.1, 0.04), (0.14, 0.14), (0.1, 0.24), (0, 0.28)],
    "bottle": [(0.045, 0), (0.045, 0.18), (0.015, 0.23), (0.015, 0.3), (0, 0.3)],
    "cup": [(0.04, 0), (0.05, 0.1), (0.045, 0.1), (0.035, 0.01), (0, 0.01)],
}


# Rotates a room towards the viewer. The result has the axes right, away from the viewer, and up.
TIP = np.deg2rad(38)
VIEW = np.array([[1, 0, 0], [0, np.cos(TIP), -np.sin(TIP)], [0, np.sin(TIP), np.cos(TIP)]])


def block(size: tuple, middle: tuple = (0, 0, 0)) -> np.ndarray:
    """Return the six faces (6, 4, 3) of a block, top and bottom first.

    The corners of a face are counterclockwise, seen from outside.
    """
    top = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]) / 2
    faces = [
        face for axis in range(3) for face in (np.roll(top, axis, 1), -np.roll(top, axis, 1)[::-1])
    ]
    return np.array(faces) * size + middle


def turned(profile: list[tuple], sides: int = 16) -> np.ndarray:
    """Return the faces (Q, 4, 3) of a (radius, height) profile rotated about the vertical axis."""
    angles = np.linspace(0, 2 * np.pi, sides + 1)
    rings = np.array([[(r * np.cos(a), r * np.sin(a), z) for a in angles] for r, z in profile])
    lower, upper = rings[:-1], rings[1:]
    corners = (lower[:, :-1], lower[:, 1:], upper[:, 1:], upper[:, :-1])
    return np.stack(corners, axis=2).reshape(-1, 4, 3)


def rotation(angle: float) -> np.ndarray:
    """Return the rotation matrix (3, 3) about the vertical axis; the angle is in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def furnish(generator: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """Return a room as pairs of a class and its faces (Q, 4, 3).

    The origin is the middle of the floor.
    """
    size = np.array([*generator.uniform(3.2, 4.0, size=2), WALL_HEIGHT])
    _, floor, *walls = block(size, (0, 0, WALL_HEIGHT / 2))[:, ::-1]  # seen from inside
    room = [("floor", floor[None]), ("wall", np.stack(walls))]

    def add(name: str, place: np.ndarray, turn: np.ndarray) -> None:
        parts = [block(*part) for part in BLOCKS.get(name, [])] or [turned(PROFILES[name])]
        scale = np.array([1, 1, 1]) if name == "table" else generator.uniform(0.85, 1.15)
        room.append((name, np.concatenate(parts) * scale @ turn.T + place))

    # Nine places on the floor; each thing stands on its own place.
    cells = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], [0]), axis=-1).reshape(-1, 3)
    places = iter(generator.permutation(cells) * size / 3.1)
    table, turn = next(places), rotation(generator.uniform(0, 2 * np.pi))
    add("table", table, turn)
    for x, (name, chance) in zip((-0.3, 0.3), CHANCES_ON_TABLE.items(), strict=True):
        if generator.random() < chance:
            spot = [x + generator.uniform(-0.2, 0.2), generator.uniform(-0.25, 0.25), TABLE_HEIGHT]
            add(name, table + turn @ spot, turn)
    for name, chances in CHANCES.items():
        for chance in chances:
            if generator.random() < chance:
                add(name, next(places), rotation(generator.uniform(0, 2 * np.pi)))
    return room


def scan(room: list[tuple[str, np.ndarray]], generator: np.random.Generator) -> tuple:
    """Return points (6, L) on the faces of a room, as positions and normals, and labels (L,)."""
    names, faces = zip(*room, strict=True)
    triangles = np.concatenate(faces)[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3, 3)
    labels = np.repeat([CLASS_NAMES.index(name) for name in names], [2 * len(f) for f in faces])
    a, b, c = triangles.transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    weights = np.linalg.norm(normals, axis=1) * np.where(labels < 2, 1, THING_DENSITY)
    ids = generator.choice(len(triangles), NUM_POINTS, p=weights / weights.sum())
    # Uniform over each triangle.
    u, v = np.sqrt(generator.random((NUM_POINTS, 1))), generator.random((NUM_POINTS, 1))
    positions = (1 - u) * a[ids] + u * (1 - v) * b[ids] + u * v * c[ids]
    normals = normals[ids] / np.linalg.norm(normals[ids], axis=1, keepdims=True)
    positions += generator.normal(0, POSITION_NOISE, positions.shape)
    normals += generator.normal(0, NORMAL_NOISE, normals.shape)
    return np.concatenate([positions, normals], axis=1).T, labels[ids]


class Rooms(NamedTuple):
    """Points (N, 6, L) and labels (N, L)."""

    points: torch.Tensor
    labels: torch.Tensor
    test_points: torch.Tensor
    test_labels: torch.Tensor


def make_data(seed: int) -> Rooms:
    """Generate rooms for training and rooms for testing."""
    generator = np.random.default_rng(seed)
    parts = []
    for number in (NUM_TRAIN, NUM_TEST):
        scans = [scan(furnish(generator), generator) for _ in range(number)]
        points, labels = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*scans, strict=True))
        parts += [points.float(), labels]
    return Rooms(*parts)


def turn_rooms(points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate each room (N, 6, L) about the vertical axis by a random angle."""
    angles = 2 * torch.pi * torch.rand(len(points), generator=generator)
    turns = torch.stack([torch.from_numpy(rotation(angle)).float() for angle in angles.numpy()])
    return (turns[:, None] @ points.unflatten(1, (2, 3))).flatten(1, 2)


def shared_mlp(in_dim: int, out_dim: int) -> nn.Sequential:
    """Return a layer that all points share: (M, in_dim) to (M, out_dim)."""
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.BatchNorm1d(out_dim), nn.ReLU())


class LocalPooling(nn.Module):
    """Add features of the neighbours to each point: the maximum over the points of its voxel.

    Voxels are cubes of `size` metres. A shared layer before the pooling takes the features and the
    position of a point relative to the mean of its voxel. A shared layer after the pooling combines
    the features of the point and of the voxel.
    """

    def __init__(self, size: float, in_dim: int, out_dim: int):
        super().__init__()
        self.size = size
        self.before = shared_mlp(in_dim + 3, out_dim)
        self.after = shared_mlp(2 * out_dim, out_dim)

    def forward(self, features, positions, rooms):
        """Return (M, out_dim) features, from (M, in_dim) features of all points.

        `positions` are (M, 3), and `rooms` (M,) is the number of the room of each point.
        """
        cells = (positions / self.size).floor().long() + 512  # 0 to 1023 in each direction
        keys = ((rooms * 1024 + cells[:, 0]) * 1024 + cells[:, 1]) * 1024 + cells[:, 2]
        _, voxels, counts = keys.unique(return_inverse=True, return_counts=True)
        sums = positions.new_zeros(len(counts), 3).index_add(0, voxels, positions)
        offsets = (positions - (sums / counts[:, None])[voxels]) / self.size
        features = self.before(torch.cat([features, offsets], dim=1))
        index = voxels[:, None].expand_as(features)
        # Features are not negative, so zeros do not change the maximum.
        pooled = features.new_zeros(len(counts), features.shape[1])
        pooled = pooled.scatter_reduce(0, index, features, "amax")
        return self.after(torch.cat([features, pooled[voxels]], dim=1))


class PointNetwork(nn.Module):
    """A network from points (N, 6, L) to embeddings (N, C, L).

    `classifier`, the last layer, is separate: the regularizers need it together with the
    embeddings.
    """

    def __init__(self):
        super().__init__()
        self.stem = shared_mlp(4, 32)
        dims = (32, 32, 48, EMBED_DIM)
        self.levels = nn.ModuleList(
            LocalPooling(*args) for args in zip(VOXEL_SIZES, dims[:-1], dims[1:], strict=True)
        )
        self.classifier = nn.Conv1d(EMBED_DIM, NUM_CLASSES, kernel_size=1)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        num_rooms, _, num_points = points.shape
        rows = points.transpose(1, 2).flatten(0, 1)
        rooms = torch.arange(num_rooms).repeat_interleave(num_points)
        features = self.stem(rows[:, 2:])  # height and normal
        for level in self.levels:
            features = level(features, rows[:, :3], rooms)
        return features.unflatten(0, (num_rooms, num_points)).transpose(1, 2)


def train(method: str, seed: int, data: Rooms, steps: int, progress: tqdm) -> PointNetwork:
    """Train a network with the regularizers of a method, and return it in evaluation mode."""
    torch.manual_seed(seed)
    model = PointNetwork()
    rooms_with_class = F.one_hot(data.labels, NUM_CLASSES).amax(dim=1).sum(dim=0)
    regularizers = build_regularizers(method, NUM_CLASSES, EMBED_DIM, rooms_with_class.tolist())
    parameters = [*model.parameters(), *regularizers.parameters()]
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randperm(len(data.points), generator=generator)[:BATCH_SIZE]
        labels = data.labels[batch]
        embeddings = model(turn_rooms(data.points[batch], generator))
        loss = F.cross_entropy(model.classifier(embeddings), labels)
        for regularizer in regularizers:
            loss = loss + sum(regularizer(embeddings, labels, model.classifier).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.update()
    return model.eval()


@torch.no_grad()
def predict(model: PointNetwork, points: torch.Tensor) -> torch.Tensor:
    """Return the class ids (N, L) of points (N, 6, L)."""
    return torch.cat([model.classifier(model(part)).argmax(dim=1) for part in points.split(4)])


def class_ious(predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the IoU of each class (K,) in percent, over all rooms together.

    A class that is not in the rooms gets NaN.
    """
    pairs = (labels * NUM_CLASSES + predictions).flatten().bincount(minlength=NUM_CLASSES**2)
    confusion = pairs.reshape(NUM_CLASSES, NUM_CLASSES)
    truth, right = confusion.sum(dim=1), confusion.diag()
    ious = 100 * right / (truth + confusion.sum(dim=0) - right)
    return torch.where(truth > 0, ious, torch.nan)


def run(method: str, seed: int, data: Rooms, steps: int, progress: tqdm) -> Outcome:
    """Train and test a network; the picture of the outcome is the predictions (N, L)."""
    predictions = predict(train(method, seed, data, steps, progress), data.test_points)
    ious = class_ious(predictions, data.test_labels)
    accuracy = 100 * (predictions == data.test_labels).float().mean()
    groups = group_means(ious, data.labels.flatten().bincount(minlength=NUM_CLASSES))
    metrics = {"accuracy": accuracy.item(), "mIoU": ious.nanmean().item()}
    metrics |= {f"mIoU {name}": value for name, value in groups.items()}
    return Outcome(metrics, ious, predictions)


def draw_room(axes: Axes, points: np.ndarray, labels: np.ndarray, shown: np.ndarray) -> None:
    """Draw the points (6, L) for which `shown` (L,) is True, coloured by their labels (L,).

    The view is from above, at an angle.
    """
    x, y, z = VIEW @ points[:3, shown]
    labels = labels[shown]
    order = np.lexsort((-y, labels))  # rarer and nearer points on top
    sizes = np.array([5, 5, 10, 10, 10, 10, 10, 22, 22, 22])[labels]  # larger for small things
    colors = np.array(COLORS)[labels]
    axes.scatter(x[order], z[order], sizes[order], colors[order], linewidths=0)
    axes.set_aspect("equal")
    axes.axis("off")


def draw(outcomes: dict[str, list[Outcome]], data: Rooms) -> Figure:
    """Draw ground truth and predictions of a test room of the first seed, above the class IoUs."""
    figure = Figure(figsize=(15, 7), layout="constrained")
    panels, bars = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    # The first room with the most classes, without the walls between the room and the viewer.
    room = F.one_hot(data.test_labels, NUM_CLASSES).amax(dim=1).sum(dim=1).argmax()
    points, truth = data.test_points[room].numpy(), data.test_labels[room].numpy()
    shown = (truth != CLASS_NAMES.index("wall")) | ((VIEW @ points[3:])[1] < 0)
    rooms = {"ground truth": truth}
    rooms |= {method: outcomes[method][0].picture[room].numpy() for method in METHODS}
    for axes, (title, labels) in zip(panels.subplots(1, len(rooms)), rooms.items(), strict=True):
        draw_room(axes, points, labels, shown)
        axes.set_title(title)
    panels.legend(
        [Line2D([], [], color=color, marker="o", linestyle="") for color in COLORS],
        CLASS_NAMES,
        ncols=NUM_CLASSES,
        loc="outside lower center",
        frameon=False,
    )
    axes = bars.subplots()
    shares = 100 * data.labels.flatten().bincount(minlength=NUM_CLASSES) / data.labels.numel()
    names = [f"{name}\n{share:.2g}%" for name, share in zip(CLASS_NAMES, shares, strict=True)]
    plot_class_bars(axes, outcomes, names)
    axes.set_xlabel("class, and its share of the training points")
    axes.set_ylabel("test IoU (%)")
    return figure


def main(argv: list[str] | None = None) -> int:
    """Run the example, print the table, and write table and picture. Return the exit code."""
    args = parse_args(argv, __doc__, "point_cloud", seeds=3, steps=350)
    return exit_code(lambda: compare(args, make_data, run, draw))


if __name__ == "__main__":
    sys.exit(main())
