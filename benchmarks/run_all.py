"""Run the programs that measure speed and memory, and write docs/benchmarks.md from the results.

Each program runs in its own process. A new result replaces the previous result for the same machine
and number of threads. Results of other machines stay. To add a GPU to the document, append its
results.jsonl to the results.jsonl of this machine, and write the document with --no-run.

The plots need matplotlib (pip install -e .[examples]).
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import matplotlib
from harness import RESULTS, RESULTS_PROGRAM, number, output_folder, parser, table
from tabulate import tabulate

from sar.cli import exit_code
from sar.files.program_outputs import Outputs

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import NullFormatter  # noqa: E402

FOLDER = Path(__file__).parent
PROGRAMS = (
    "pull_loss",
    "anchor_branch",
    "center_collapse",
    "upsample_cross_entropy",
    "lovasz",
    "sparse_convolution",
    "evaluator",
    "loader",
    "inference",
    "training",
)
INTRODUCTION = """# Benchmarks

This page is written by `python benchmarks/run_all.py`; nothing is edited by hand.

Our code (*ours*) and the code that it is compared with (*peer*) take turns in one process. The
tables show medians. If *peer / ours* is 2, the peer takes twice as much time or memory. The *floor*
is a lower bound for any program, such as bytes divided by the bandwidth measured on the same
machine. If *ours / floor* is 2, our code takes twice this lower bound.
"""


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, example="--threads 2 loader evaluator")
    arguments.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=f"default: all of {', '.join(PROGRAMS)}"
    )
    arguments.add_argument("--no-run", action="store_true", help="only write the document")
    arguments.add_argument(
        "--docs",
        metavar="FOLDER",
        type=Path,
        default=FOLDER.parent / "docs",
        help="where the document is written (default: docs/; with --smallest, next to the results)",
    )
    args = arguments.parse_args(argv)
    unknown = set(args.programs) - set(PROGRAMS)
    if unknown:
        arguments.error(f"unknown {', '.join(sorted(unknown))}: known are {', '.join(PROGRAMS)}")
    return exit_code(lambda: run(args, is_own=args.docs == arguments.get_default("docs")))


def run(args: argparse.Namespace, *, is_own: bool) -> int:
    """Run the programs and write the document. Return 1 if a program failed, else 0.

    Args:
        is_own: the document belongs to this repository and may always be overwritten.

    Raises:
        InputError: the document or the results cannot be written.
    """
    output = output_folder(args)
    results = output / RESULTS
    docs = Outputs(output if args.smallest else args.docs, overwrite=args.overwrite or is_own)
    docs.check([docs.folder / "benchmarks.md"])
    failed = []
    for name in () if args.no_run else args.programs or PROGRAMS:
        print(f"== {name}", flush=True)
        options = ["--threads", str(args.threads), "--device", args.device, "--output", args.output]
        options += ["--overwrite"] * args.overwrite + ["--smallest"] * args.smallest
        if subprocess.run([sys.executable, FOLDER / f"{name}.py", *options]).returncode != 0:
            failed.append(name)
    rows = newest(results.read_text().splitlines() if results.exists() else [])
    if not args.no_run:
        # The programs have added lines to the file.
        outputs = Outputs(output, overwrite=args.overwrite, program=RESULTS_PROGRAM)
        with outputs.writing(results) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_document(rows, docs)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def newest(lines: list[str]) -> list[dict]:
    """Return the rows of the last run of each program on each machine, in the order of PROGRAMS."""
    rows = [json.loads(line) for line in lines]
    last = {run_key(row): row["run"] for row in rows}
    rows = [row for row in rows if row["run"] == last[run_key(row)]]
    programs = [f"{name}.py" for name in PROGRAMS]
    rows = [row for row in rows if row["program"] in programs]
    return sorted(
        rows, key=lambda row: (row["device"], row["threads"], programs.index(row["program"]))
    )


def run_key(row: dict) -> tuple:
    return row["device"], row["threads"], row["program"]


def write_document(rows: list[dict], docs: Outputs) -> None:
    """Write benchmarks.md and a plot for each machine."""
    parts = [INTRODUCTION]
    for (device, threads), of_machine in groupby(rows, lambda row: (row["device"], row["threads"])):
        of_machine = list(of_machine)
        title = f"{device}, {threads} thread{'s' * (threads > 1)}"
        versions = list(dict.fromkeys(row["versions"] for row in of_machine))
        parts += [f"## {title}\n", *(f"{text}\n" for text in versions)]
        for program, of_program in groupby(of_machine, lambda row: row["program"]):
            parts.append(program_section(program, threads, list(of_program)))
        series = growing(of_machine)
        if series:
            picture = f"benchmarks-{re.sub('[^a-z0-9]+', '-', title.lower())}.png"
            plot_growth(series, docs, docs.folder / picture)
            parts.append(growth_section(series, picture))
    with docs.writing(docs.folder / "benchmarks.md") as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def program_section(program: str, threads: int, rows: list[dict]) -> str:
    text = ast.get_docstring(ast.parse((FOLDER / program).read_text()))
    parts = [f"### {Path(program).stem}\n", f"{text}\n"]
    parts.append(f"    python benchmarks/{program} --threads {threads}\n")
    for subject in dict.fromkeys(row["subject"] for row in rows):
        of_subject = [row for row in rows if row["subject"] == subject]
        parts.append(f"**{subject}**\n\n{table(of_subject)}\n")
    return "\n".join(parts)


def growing(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """Return the series of growing sizes, by subject and axis."""
    series: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if row["growth"]:
            series.setdefault((row["subject"], row["growth"]["axis"]), []).append(row)
    for points in series.values():
        points.sort(key=lambda row: row["growth"]["value"])
    return {key: points for key, points in series.items() if len(points) > 1}


def growth_section(series: dict[tuple[str, str], list[dict]], picture: str) -> str:
    headers = ["subject", "what grows", "from", "to", "predicted", "ours", "peer"]
    rows = []
    for (subject, axis), points in series.items():
        first, last = points[0], points[-1]
        start, end = first["growth"], last["growth"]
        row = [subject, axis, f"{start['value']:,.0f}", f"{end['value']:,.0f}"]
        factors = [end["predicted"] / start["predicted"]]
        factors += [last[who] / first[who] if first[who] else None for who in ("ours", "peer")]
        row += ["" if factor is None else f"x {number(factor)}" for factor in factors]
        rows.append(row)
    grid = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
    return (
        "### Growth\n\nGrowth of the cost with the number that the second column names, next to "
        "the growth predicted on paper.\nThe text of each program explains its prediction.\n\n"
        f"{grid}\n\n![Growth]({picture})\n"
    )


def plot_growth(series: dict[tuple[str, str], list[dict]], docs: Outputs, path: Path) -> None:
    """Plot a panel for each series: cost over size, relative to the first point of the series."""
    columns = 4
    rows = -(-len(series) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat[len(series) :]:
        axis.set_visible(False)
    for axis, ((subject, what), points) in zip(axes.flat, series.items(), strict=False):
        values = [row["growth"]["value"] for row in points]
        for name in ("ours", "peer"):
            if all(row[name] for row in points):
                costs = [row[name] / points[0][name] for row in points]
                axis.loglog(values, costs, "o-", label=name)
        predicted = [row["growth"]["predicted"] for row in points]
        axis.loglog(values, [cost / predicted[0] for cost in predicted], "k--", label="predicted")
        # Labels between the powers of ten would overlap.
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(subject, fontsize=8, wrap=True)
        axis.set_xlabel(what)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("cost, relative to the first")
    axes[0, 0].legend()
    figure.tight_layout()
    with docs.writing(path) as temporary:
        figure.savefig(temporary, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
