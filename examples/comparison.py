"""Code that the examples share: methods, command line, runs, output files and bar plots.

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
COLORS = ("#c4c4c4", "#85b4dd", "#f0b67f", "#5b5b68")  # of the methods; class colours are darker


class Outcome(NamedTuple):
    """The result of a run: metrics and (K,) class scores, all in percent, and data to draw."""

    metrics: dict[str, float]
    class_scores: torch.Tensor
    picture: Any


def parse_args(
    argv: Sequence[str] | None, description: str, name: str, *, seeds: int, steps: int
) -> argparse.Namespace:
    """Return the options of an example; `seeds` and `steps` are the numbers for a full run."""
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
        "--quick", action="store_true", help="only one seed and a quarter of the steps"
    )
    args = parser.parse_args(argv)
    args.name = name
    args.seeds = args.seeds or (1 if args.quick else seeds)
    args.steps = args.steps or (steps // 4 if args.quick else steps)
    return args


def build_regularizers(
    method: str, num_classes: int, embed_dim: int, class_frequencies: Sequence[float]
) -> nn.ModuleList:
    """Return the regularizers of a method, with the default weights; none for "plain"."""
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
    """Run every method with every seed, print the table, and write table and picture.

    Args:
        args: the options from `parse_args`.
        make_data: returns the data for a seed.
        run: trains and tests once, given method, seed, data, number of steps and progress bar.
        draw: draws the picture, given the outcomes of each method and the data of the first seed.

    Raises:
        InputError: the table or the picture cannot be written.
    """
    outputs = Outputs(args.output, overwrite=args.overwrite)
    table_path, picture_path = (args.output / f"{args.name}.{end}" for end in ("md", "png"))
    outputs.check([table_path, picture_path])
    torch.set_num_threads(1)  # the tensors are small: more threads would be slower
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
    """Return the means of (K,) scores over frequent, common and rare classes.

    The groups are 60%, 20% and 20% of the classes, ordered by their (K,) counts in training.
    """
    order = counts.argsort(descending=True, stable=True)
    groups = order.tensor_split((round(0.6 * len(order)), round(0.8 * len(order))))
    names = ("frequent", "common", "rare")
    return {name: scores[ids].nanmean().item() for name, ids in zip(names, groups, strict=True)}


def format_table(outcomes: dict[str, list[Outcome]]) -> str:
    """Return a table of means and standard deviations over the seeds.

    Each method has a row, each metric a column.
    """
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
    """Plot a bar for each class and method, with the standard deviation over the seeds.

    `class_names` (K,) are the labels under the bars.
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
    """Return the standard deviation of (S, ...) over the seeds; 0 for a single seed."""
    return np.nanstd(values, axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])
