#!/usr/bin/env python
"""Compare training methods over several seeds, and write docs/results.md from the results.

A study is a YAML file with methods, candidate settings, seeds and ablations. The file
projects/SAR/sar/study/matrix.py describes its keys. The program first chooses the settings of each
method, with seeds and data that the page does not report. It then trains the chosen settings with
the reported seeds. Each result becomes a line of the results file. A second run only trains the
missing settings and seeds.

    --output    one folder for each training
    --results   the results of all studies (default: experiments/results.jsonl)
    --docs      the page and its figures, made only from the results file (default: docs/)
"""

import argparse
import json
import os
import queue
import sys
import threading
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from sar import cli

EXAMPLES = """examples:
  python tools/study.py
  python tools/study.py experiments/longtail_shapes.yaml --parallel 2
"""
PROJECT = Path(__file__).parents[1]
STUDIES = sorted((PROJECT / "experiments").glob("*.yaml"))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument(
        "studies", nargs="*", metavar="FILE", type=Path, help="default: all of experiments/*.yaml"
    )
    parser.add_argument("--no-run", action="store_true", help="only write the page")
    parser.add_argument(
        "--parallel",
        type=cli.positive,
        metavar="N",
        help="number of trainings at the same time (default: one per GPU, or per CPU core)",
    )
    parser.add_argument(
        "--threads",
        type=cli.positive,
        metavar="N",
        default=1,
        help="threads of each training (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda if there is a GPU)")
    cli.add_output(
        parser,
        "FOLDER",
        "default: output/study; --overwrite only applies to the page",
        required=False,
        default=PROJECT / "output/study",
    )
    parser.add_argument(
        "--results", type=Path, default=PROJECT / "experiments/results.jsonl", metavar="FILE"
    )
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs", metavar="FOLDER")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import torch
from tqdm import tqdm

from sar.errors import InputError
from sar.files.program_outputs import Outputs
from sar.study.cells import run_cell
from sar.study.matrix import Cell, read_study
from sar.study.page import write_page


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    args.parallel = args.parallel or torch.cuda.device_count() or os.cpu_count()
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return cli.run(run, args, "Run it again to continue: finished trainings are kept.")


def run(args: Namespace) -> int:
    """Train what the results file lacks, and write the page. Return 1 if a training failed, else 0.

    Raises:
        InputError: a study or the results file is wrong, or this program did not write the page.
    """
    # The page of this repository may always be overwritten.
    is_own = args.docs.resolve() == PROJECT / "docs"
    docs = Outputs(args.docs, overwrite=args.overwrite or is_own)
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
    """Return the rows of the results file by the key of their cell; empty without a file."""
    rows = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            row = json.loads(line)
            rows[row["key"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number} is not a result: remove the line") from error
    return rows


def run_missing(cells: Sequence[Cell], rows: dict[str, dict], args: Namespace, title: str) -> int:
    """Run the cells without a row, and add their rows. Return the number of failures."""
    unique = {cell.key: cell for cell in cells}
    missing = [cell for key, cell in unique.items() if key not in rows]
    # Each training waits for a free GPU.
    found = _visible_gpus() if args.device == "cuda" else []
    gpus = queue.SimpleQueue()
    for i in range(args.parallel):
        gpus.put(found[i % len(found)] if found else "")
    lock = threading.Lock()

    def run_one(cell: Cell) -> None:
        gpu = gpus.get()
        try:
            folder = args.output / cell.study / cell.key
            row = run_cell(
                cell, folder, project=PROJECT, threads=args.threads, device=args.device, gpu=gpu
            )
            row["parallel"] = args.parallel
        finally:
            gpus.put(gpu)
        with lock:  # one thread writes at a time
            rows[cell.key] = row
            with open(args.results, "a") as file:
                file.write(json.dumps(row) + "\n")

    num_failed = 0
    with (
        ThreadPoolExecutor(args.parallel) as pool,
        tqdm(
            total=len(unique),
            initial=len(unique) - len(missing),
            desc=title,
            disable=args.quiet,
        ) as bar,
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
    """Return the names in CUDA_VISIBLE_DEVICES if it is set, else the numbers of all GPUs."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named else list(map(str, range(torch.cuda.device_count())))


if __name__ == "__main__":
    sys.exit(main())
