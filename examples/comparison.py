"""What the examples share: the methods, the command line, the runs, what they write, the bars.

Shape shorthands: K classes, S seeds.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from sar import cli
from sar.files.program_outputs import Outputs
from sar.regularizers import CenterCollapseRegularizer, SemanticAnchorRegularizer

METHODS = ("plain", "SAR", "CeCo", "SAR + CeCo")
COLORS = ("#c4c4c4", "#85b4dd", "#f0b67f", "#5b5b68")  # of the methods; the classes' are darker


class Outcome(NamedTuple):
    """What a run gives: its metrics in percent, (K,) scores of the classes in percent, and what
    is drawn of it."""

    metrics: dict[str, float]
    class_scores: torch.Tensor
    picture: Any


def parse_args(
    argv: Sequence[str] | None, description: str, name: str, *, seeds: int, steps: int
) -> argparse.Namespace:
    """The options of an example; `seeds` and `steps` are those of a full run."""
    example = f"example:\n  python examples/{name}.py --seeds 10 --output output/ten_seeds"
    parser = cli.parser(description, example, talks=False)
    parser.add_argument(
        "--seeds",
        type=cli.positive,
        metavar="S",
        help=f"runs of each method (default: {seeds})",
    )
    parser.add_argument(
        "--steps",
        type=cli.positive,
        metavar="T",
        help=f"training steps of a run (default: {steps})",
    )
    cli.add_output(
        parser,
        "FOLDER",
        f"where {name}.md and {name}.png are written (default: output/examples)",
        required=False,
        default=Path("output/examples"),
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed and a quarter of the steps: a first look"
    )
    args = parser.parse_args(argv)
    args.name = name
    args.seeds = args.seeds or (1 if args.quick else seeds)
    args.steps = args.steps or (steps // 4 if args.quick else steps)
    return args


def build_regularizers(
    method: str, num_classes: int, embed_dim: int, class_frequencies: Sequence[float]
) -> nn.ModuleList:
    """The regularizers of a method, with the package's default weights; none for "plain"."""
    regularizers = nn.ModuleList()
    if "SAR" in method:
        regularizers.append(SemanticAnchorRegularizer(num_classes, embed_dim))
    if "CeCo" in method:
        regularizers.append(
            CenterCollapseRegularizer(num_classes, embed_dim, class_frequencies=class_frequencies)
        )
    return regularizers


def compare(
    args: argparse.Namespace,
    make_data: Callable[[int], Any],
    run: Callable[[str, int, Any, int, tqdm], Outcome],
    draw: Callable[[dict[str, list[Outcome]], Any], Figure],
) -> None:
    """Runs every method with every seed, prints the table, and writes it and the picture.

    Args:
        args: of `parse_args`.
        make_data: from a seed.
        run: one run, from method, seed, data, number of steps and the progress bar to update.
        draw: the picture, from the outcomes of each method and the data of the first seed.

    Raises:
        InputError: the table or the picture cannot be written.
    """
    outputs = Outputs(args.output, overwrite=args.overwrite)
    table_path, picture_path = (args.output / f"{args.name}.{end}" for end in ("md", "png"))
    outputs.check([table_path, picture_path])
    torch.set_num_threads(1)  # the tensors are small: more threads get into each other's way
    start = time.perf_counter()
    outcomes = {method: [] for method in METHODS}
    with tqdm(total=args.seeds * len(METHODS) * args.steps, unit="step") as progress:
        for seed in range(args.seeds):
            data = make_data(seed)
            for method in METHODS:
                progress.set_description(f"seed {seed}, {method}")
                outcomes[method].append(run(method, seed, data, args.steps, progress))
    table = format_table(outcomes)
    seeds = f"mean ± standard deviation of {args.seeds} seeds" if args.seeds > 1 else "one seed"
    print(f"\nTest set, in percent, {seeds} ({time.perf_counter() - start:.0f} s):\n\n{table}\n")
    with outputs.writing(table_path) as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    with outputs.writing(picture_path) as temporary:
        draw(outcomes, make_data(0)).savefig(temporary, dpi=110)
    print(f"Written: {table_path}, {picture_path}")


def group_means(scores: torch.Tensor, counts: torch.Tensor) -> dict[str, float]:
    """Means of (K,) scores over frequent, common and rare classes.

    By their (K,) counts in training: 60%, 20% and 20% of the classes.
    """
    order = counts.argsort(descending=True, stable=True)
    groups = order.tensor_split((round(0.6 * len(order)), round(0.8 * len(order))))
    names = ("frequent", "common", "rare")
    return {name: scores[ids].nanmean().item() for name, ids in zip(names, groups, strict=True)}


def format_table(outcomes: dict[str, list[Outcome]]) -> str:
    """A row per method, a column per metric: mean and standard deviation over the seeds."""
    metrics = list(outcomes[METHODS[0]][0].metrics)
    rows = []
    for method, runs in outcomes.items():
        values = np.array([[run.metrics[metric] for metric in metrics] for run in runs])
        means, spreads = values.mean(axis=0), _spread(values)
        cells = [f"{mean:.1f} ± {spread:.1f}" for mean, spread in zip(means, spreads, strict=True)]
        rows.append([method, *cells])
    alignment = ("left", *["right"] * len(metrics))
    return tabulate(rows, ["method", *metrics], tablefmt="pipe", colalign=alignment)


def plot_class_bars(
    axes: Axes, outcomes: dict[str, list[Outcome]], class_names: Sequence[str]
) -> None:
    """Scores by class, a bar per method, with the standard deviation over the seeds.

    `class_names` (K,) are written under the bars.
    """
    width = 0.8 / len(METHODS)
    for i, (method, color) in enumerate(zip(METHODS, COLORS, strict=True)):
        scores = np.stack([run.class_scores.numpy() for run in outcomes[method]])
        axes.bar(
            np.arange(len(class_names)) + (i - (len(METHODS) - 1) / 2) * width,
            np.nanmean(scores, axis=0),
            width,
            yerr=_spread(scores),
            label=method,
            color=color,
            error_kw={"elinewidth": 0.8, "ecolor": "black"},
        )
    axes.set_xticks(np.arange(len(class_names)), class_names)
    axes.set_xlim(-0.6, len(class_names) - 0.4)
    axes.set_ylim(0, 100)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(METHODS), loc="lower center", bbox_to_anchor=(0.5, 1.02), frameon=False)


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation of (S, ...) over the seeds; 0 for a single one."""
    return np.nanstd(values, axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])
