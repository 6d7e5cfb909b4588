#!/usr/bin/env python
"""Classify long-tailed handwritten digits with and without SAR and CeCo, in plain PyTorch.

The data are digits of scikit-learn (8 x 8 pixels), sub-sampled to a long tail. The most frequent
class has 100 training images and the rarest class has 2; the counts between fall exponentially. The
test set is balanced. The seed decides which digits are frequent and which are rare. A small
convolutional network is trained in four ways, with the same initial weights and the same batches.
The example needs `pip install -e .[examples]`, but not detectron2.

Shape shorthands: N images, C embedding channels, K classes.
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
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.datasets import load_digits
from torch import nn
from tqdm import tqdm

from sar.cli import exit_code

NUM_CLASSES = 10
TRAIN_COUNTS = np.geomspace(100, 2, NUM_CLASSES).round().astype(int).tolist()  # of each class
NUM_TEST = 70  # of each class
EMBED_DIM = 64
BATCH_SIZE = 64


class DigitNetwork(nn.Module):
    """Two convolutions and a hidden layer: (N, 1, 8, 8) images to (N, C) embeddings.

    `classifier`, the last layer, is separate: the regularizers need it together with the
    embeddings.
    """

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 2 * 2, EMBED_DIM),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(EMBED_DIM, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.encoder(images)


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) and labels (N,); class 0 is the most frequent one, class 9 the rarest."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def long_tailed_digits(seed: int) -> Digits:
    """Return the digits; the seed draws the order of the classes, and training and test images."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    generator = np.random.default_rng(seed)
    train, test = [], []
    for digit, count in zip(generator.permutation(NUM_CLASSES), TRAIN_COUNTS, strict=True):
        ids = generator.permutation(np.flatnonzero(digits.target == digit))
        test.append(ids[:NUM_TEST])
        train.append(ids[NUM_TEST : NUM_TEST + count])
    parts = []
    for ids in (train, test):
        labels = np.repeat(np.arange(NUM_CLASSES), [len(i) for i in ids])
        parts += [images[np.concatenate(ids)], torch.from_numpy(labels)]
    return Digits(*parts)


def shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image (N, 1, 8, 8) by at most one pixel in both directions."""
    padded = F.pad(images, (1, 1, 1, 1))
    starts = torch.randint(3, (2, len(images), 1), generator=generator)
    rows, columns = starts + torch.arange(8)
    samples = torch.arange(len(images))[:, None, None]
    return padded[samples, 0, rows[:, :, None], columns[:, None, :]][:, None]


def train(method: str, seed: int, data: Digits, steps: int, progress: tqdm) -> DigitNetwork:
    """Train a network with the regularizers of a method, and return it in evaluation mode."""
    torch.manual_seed(seed)
    model = DigitNetwork()
    regularizers = build_regularizers(method, NUM_CLASSES, EMBED_DIM, TRAIN_COUNTS)
    parameters = [*model.parameters(), *regularizers.parameters()]
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(data.images), (BATCH_SIZE,), generator=generator)
        labels = data.labels[batch]
        embeddings = model(shift(data.images[batch], generator))
        loss = F.cross_entropy(model.classifier(embeddings), labels)
        for regularizer in regularizers:
            loss = loss + sum(regularizer(embeddings, labels, model.classifier).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.update()
    return model.eval()


def run(method: str, seed: int, data: Digits, steps: int, progress: tqdm) -> Outcome:
    """Train and test a network; the picture of the outcome is the test embeddings (N, C)."""
    model = train(method, seed, data, steps, progress)
    with torch.no_grad():
        embeddings = model(data.test_images)
        predictions = model.classifier(embeddings).argmax(dim=1)
    right = data.test_labels[predictions == data.test_labels].bincount(minlength=NUM_CLASSES)
    accuracies = 100 * right / NUM_TEST
    groups = group_means(accuracies, torch.tensor(TRAIN_COUNTS))
    return Outcome({"accuracy": accuracies.mean().item(), **groups}, accuracies, embeddings)


def project(embeddings: torch.Tensor) -> torch.Tensor:
    """Project embeddings (N, C) on their first two principal components, (N, 2)."""
    centred = embeddings - embeddings.mean(dim=0)
    return centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T


def draw(outcomes: dict[str, list[Outcome]], data: Digits) -> Figure:
    """Draw the test embeddings of the first seed in two dimensions, above the class accuracies."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    panels, bars = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    colors = colormaps["tab10"](np.arange(NUM_CLASSES))
    point_colors = colors[data.test_labels]
    for axes, method in zip(panels.subplots(1, len(METHODS)), METHODS, strict=True):
        axes.scatter(*project(outcomes[method][0].picture).T, c=point_colors, s=6, linewidths=0)
        axes.set_title(method)
        axes.set_xticks([])
        axes.set_yticks([])
    panels.legend(
        [Line2D([], [], color=color, marker="o", linestyle="") for color in colors],
        TRAIN_COUNTS,
        title="Test embeddings, first two principal components; classes by their training images",
        ncols=NUM_CLASSES,
        loc="outside lower center",
        frameon=False,
    )
    axes = bars.subplots()
    plot_class_bars(axes, outcomes, TRAIN_COUNTS)
    axes.set_xlabel("training images of the class")
    axes.set_ylabel("test accuracy (%)")
    return figure


def main(argv: list[str] | None = None) -> int:
    """Run the example, print the table, and write table and picture. Return the exit code."""
    args = parse_args(argv, __doc__, "classification", seeds=5, steps=800)
    return exit_code(lambda: compare(args, long_tailed_digits, run, draw))


if __name__ == "__main__":
    sys.exit(main())
