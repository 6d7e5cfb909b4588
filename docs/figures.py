#!/usr/bin/env python
"""Draws the figures of methods.md, from the regularizers themselves: python docs/figures.py

Both are toys of seconds on a CPU, from a fixed seed; they show what a loss does, not how well.
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from torch import nn

from sar import cli
from sar.files.program_outputs import Outputs
from sar.regularizers import CenterCollapseRegularizer, SemanticAnchorRegularizer, simplex_etf

SEED = 0
COUNTS = (400, 200, 100, 50, 25, 12, 6, 3)  # points of each class
EMBED_DIM = 16
NUM_STEPS = 400
BLUE, RED = "#2c6ea0", "#be3232"


def long_tailed_clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """Points (N, 8) of eight Gaussian clouds, and their classes (N,)."""
    labels = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    points = 2 * torch.randn(len(COUNTS), 8)[labels] + torch.randn(len(labels), 8)
    return points, labels


def semantic_anchors() -> dict[str, torch.Tensor]:
    """Trains with SAR beside the cross-entropy.

    Returns:
        of each step, the least probability of an anchor, whether the gate was open, and the pull.
    """
    torch.manual_seed(SEED)
    points, labels = long_tailed_clouds()
    network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, EMBED_DIM))
    classifier = nn.Linear(EMBED_DIM, len(COUNTS))
    regularizer = SemanticAnchorRegularizer(len(COUNTS), EMBED_DIM)
    modules = nn.ModuleList([network, classifier, regularizer])
    optimizer = torch.optim.Adam(modules.parameters(), lr=3e-3)
    history: dict[str, list] = {"probability": [], "gate": [], "pull": []}
    for _ in range(NUM_STEPS):
        embeddings = network(points)
        losses = regularizer(embeddings, labels, classifier)
        with torch.no_grad():
            probabilities = classifier(regularizer.projector(regularizer.anchors)).softmax(dim=1)
        history["probability"].append(probabilities.diagonal().min())
        history["gate"].append(regularizer.gate_is_open.clone())
        history["pull"].append(losses["loss_sar_pull"].detach())
        loss = F.cross_entropy(classifier(embeddings), labels) + sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: torch.stack(values) for name, values in history.items()}


def gradient_shares() -> dict[str, torch.Tensor]:
    """What each loss asks of each class, before any training.

    Returns:
        of each loss, the share (K,) of each class in the gradient on the embeddings: the norm of
        the sum over its points.
    """
    torch.manual_seed(SEED)
    _, labels = long_tailed_clouds()
    embeddings = torch.randn(len(labels), EMBED_DIM, requires_grad=True)
    classifier = nn.Linear(EMBED_DIM, len(COUNTS))
    ceco = CenterCollapseRegularizer(len(COUNTS), EMBED_DIM, projection_dim=None)
    losses = {
        "cross-entropy": F.cross_entropy(classifier(embeddings), labels),
        "CeCo": ceco(embeddings, labels)["loss_ceco"],
    }
    shares = {}
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, embeddings)
        norms = torch.stack([gradient[labels == k].sum(dim=0).norm() for k in range(len(COUNTS))])
        shares[name] = norms / norms.sum()
    return shares


def draw_semantic_anchors() -> plt.Figure:
    history = semantic_anchors()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    steps = range(len(history["gate"]))
    left.plot(steps, history["probability"], color=BLUE)
    left.axhline(0.8, color="grey", linestyle="--", linewidth=1)
    left.text(len(steps), 0.78, "gate_confidence", ha="right", va="top", color="grey")
    left.set(xlabel="step", title="probability of the least certain anchor", ylim=(0, 1.02))
    right.plot(steps, history["pull"], color=RED)
    right.set(xlabel="step", title="loss_sar_pull (0 while the gate is closed)")
    for axes in (left, right):
        opened = int(history["gate"].int().argmax())
        axes.axvspan(0, opened, color="0.93", linewidth=0)
    return figure


def draw_class_centres() -> plt.Figure:
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8, 2.8), width_ratios=(2, 1), layout="constrained"
    )
    for offset, (name, shares), color in zip(
        (-0.2, 0.2), gradient_shares().items(), ("0.6", BLUE), strict=True
    ):
        places = [k + offset for k in range(len(COUNTS))]
        left.bar(places, 100 * shares, width=0.4, color=color, label=name)
    left.set(xticks=range(len(COUNTS)), xticklabels=COUNTS, yscale="log")
    left.set(xlabel="points of the class", title="share of the gradient, in percent")
    left.legend()
    etf = simplex_etf(3, 3)
    plane = torch.linalg.svd(etf).Vh[:2].T  # that the three lie in
    for x, y in etf @ plane:
        right.annotate("", (x, y), (0, 0), arrowprops={"color": BLUE, "width": 1, "headwidth": 6})
    right.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal", xticks=[], yticks=[])
    right.set_title("simplex ETF of three classes")
    return figure


FIGURES = {"semantic_anchors": draw_semantic_anchors, "class_centres": draw_class_centres}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).with_name("figures")
    cli.add_output(parser, "FOLDER", "default: docs/figures", required=False, default=default)
    args = parser.parse_args(argv)
    # The figures in the folder of this program are its own, also in a new clone.
    return cli.exit_code(
        lambda: write_figures(args.output, overwrite=args.overwrite or args.output == default)
    )


def write_figures(folder: Path, *, overwrite: bool) -> None:
    """Draw and write all figures.

    Raises:
        InputError: one cannot be written.
    """
    outputs = Outputs(folder, overwrite=overwrite)
    paths = {name: folder / f"{name}.svg" for name in FIGURES}
    outputs.check(paths.values())
    matplotlib.use("agg")
    # The same file from the same numbers.
    with plt.rc_context({"svg.hashsalt": "sar", "font.size": 9, "axes.titlesize": 9}):
        for name, draw in FIGURES.items():
            figure = draw()
            with outputs.writing(paths[name]) as temporary:
                figure.savefig(temporary, metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
