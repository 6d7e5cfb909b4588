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
from sar.points.geometry import rotation_about
from sar.points.rooms import CLASS_NAMES, COLORS, furnish, scan

NUM_CLASSES = len(CLASS_NAMES)
CLASS_COLORS = np.array(COLORS) / 255
NUM_TRAIN, NUM_TEST = 24, 80  # rooms
NUM_POINTS = 2048  # of a room
BATCH_SIZE = 2  # rooms
VOXEL_SIZES = (0.1, 0.3, 1.0)  # metres
EMBED_DIM = 64

# Rotates a room towards the viewer. The result has the axes right, away from the viewer, and up.
TIP = np.deg2rad(38)
VIEW = np.array([[1, 0, 0], [0, np.cos(TIP), -np.sin(TIP)], [0, np.sin(TIP), np.cos(TIP)]])


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
        scans = [scan(furnish(generator), NUM_POINTS, generator) for _ in range(number)]
        positions, normals, labels, _ = map(np.stack, zip(*scans, strict=True))
        points = np.concatenate([positions, normals], axis=2).swapaxes(1, 2)
        parts += [torch.from_numpy(points).float(), torch.from_numpy(labels)]
    return Rooms(*parts)


def turn_rooms(points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate each room (N, 6, L) about the vertical axis by a random angle."""
    angles = 2 * torch.pi * torch.rand(len(points), generator=generator)
    turns = np.stack([rotation_about(2, angle) for angle in angles.numpy()])
    turns = torch.from_numpy(turns).float()
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
    colors = CLASS_COLORS[labels]
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
        [Line2D([], [], color=color, marker="o", linestyle="") for color in CLASS_COLORS],
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
