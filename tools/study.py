#!/usr/bin/env python
"""Trains what a study compares, with every seed, and writes docs/results.md from what comes out.

A study is a file of methods, their candidates, seeds and ablations (benchmarks/study/matrix.py says
how it is written). First every method's candidates are trained with the seeds of the choice and
evaluated on data that nothing is reported of; then what was chosen, with the seeds of the report.
A result is a line of the results file, and is not made again: a study that was stopped goes on.

    --output    a folder for each training
    --results   the results of all studies (default: docs/results.jsonl)

The page, its figures and all numbers in it are written from the results file.
"""

import json
import os
import queue
import sys
import threading
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from study.cells import PROJECT, run_cell
from study.matrix import Cell, read_study
from study.page import write_page
from tqdm import tqdm

from sar.cli import add_output, exit_code, parser, positive
from sar.errors import InputError
from sar.files.program_outputs import Outputs

EXAMPLES = """examples:
  python benchmarks/study.py
  python benchmarks/study.py benchmarks/study/longtail_shapes.yaml --parallel 2
"""
STUDIES = sorted(Path(__file__).with_name("study").glob("*.yaml"))


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, EXAMPLES, talks=False)
    arguments.add_argument(
        "studies", nargs="*", metavar="FILE", type=Path, help="default: all of benchmarks/study/"
    )
    arguments.add_argument("--no-run", action="store_true", help="only write the page")
    arguments.add_argument(
        "--parallel",
        type=positive,
        metavar="N",
        default=torch.cuda.device_count() or os.cpu_count(),
        help="trainings at a time (default: one a GPU, or a core: %(default)s)",
    )
    arguments.add_argument(
        "--threads", type=positive, metavar="N", default=1, help="of each (default: %(default)s)"
    )
    arguments.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda (default: %(default)s)",
    )
    add_output(
        arguments,
        "FOLDER",
        "default: output/study; --overwrite is about the page",
        required=False,
        default=PROJECT / "output/study",
    )
    arguments.add_argument(
        "--results", type=Path, default=PROJECT / "docs/results.jsonl", metavar="FILE"
    )
    args = arguments.parse_args(argv)
    return exit_code(lambda: run(args), "Run it again to go on: finished trainings are kept.")


def run(args: Namespace) -> int:
    """Runs what is missing of the studies, and writes the page; 1 where a training failed.

    Raises:
        InputError: a study's or the results file is wrong.
    """
    # The page of this repository may always be written.
    is_own = args.results.parent.resolve() == PROJECT / "docs"
    docs = Outputs(args.results.parent, overwrite=args.overwrite or is_own)
    docs.check([docs.folder / "results.md"])
    studies = [read_study(path) for path in args.studies or STUDIES]
    rows = read_results(args.results)
    num_failed = 0
    for study in () if args.no_run else studies:
        failed = run_missing(study.choice_cells(), rows, args, f"{study.title}, choice")
        if not failed:
            failed = run_missing(study.cells(rows), rows, args, study.title)
        num_failed += failed
    shown = dict.fromkeys(path.resolve() for path in [*STUDIES, *args.studies])
    write_page([read_study(path) for path in shown], rows, docs)
    return 1 if num_failed else 0


def read_results(path: Path) -> dict[str, dict]:
    """The rows of the results file, by their cell's key; none where there is no file."""
    rows = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            row = json.loads(line)
            rows[row["key"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number} is no result: remove that line") from error
    return rows


def run_missing(cells: Sequence[Cell], rows: dict[str, dict], args: Namespace, title: str) -> int:
    """Runs the cells that have no row yet, and gives them one; how many failed."""
    unique = {cell.key: cell for cell in cells}
    missing = [cell for key, cell in unique.items() if key not in rows]
    # Each training takes a GPU of its own, in turn.
    found = _visible_gpus() if args.device == "cuda" else []
    gpus = queue.SimpleQueue()
    for i in range(args.parallel):
        gpus.put(found[i % len(found)] if found else "")
    lock = threading.Lock()

    def run_one(cell: Cell) -> None:
        gpu = gpus.get()
        try:
            folder = args.output / cell.study / cell.key
            row = run_cell(cell, folder, threads=args.threads, device=args.device, gpu=gpu)
            row["parallel"] = args.parallel
        finally:
            gpus.put(gpu)
        with lock:  # a line is written at once
            rows[cell.key] = row
            with open(args.results, "a") as file:
                file.write(json.dumps(row) + "\n")

    num_failed = 0
    with (
        ThreadPoolExecutor(args.parallel) as pool,
        tqdm(total=len(unique), initial=len(unique) - len(missing), desc=title) as bar,
    ):
        futures = [pool.submit(run_one, cell) for cell in missing]
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except InputError as error:
                    num_failed += 1
                    bar.write(f"error: {error}", file=sys.stderr)
                bar.update()
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return num_failed


def _visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them, where it is set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named else list(map(str, range(torch.cuda.device_count())))


if __name__ == "__main__":
    sys.exit(main())
