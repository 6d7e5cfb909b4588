#!/usr/bin/env python
"""Run the trainings behind docs/results.md, and write this page from their results.

A study is a YAML file with methods, candidate settings, seeds and ablations. The file
projects/SAR/sar/study/matrix.py describes its keys. The program first chooses the settings of each
method, with seeds and data that the page does not report. It then trains the chosen settings with
the reported seeds. Each result becomes a line of the results file. A second run only trains the
missing settings and seeds, and continues trainings that were interrupted.

    --output    one folder for each training
    --results   the results of all studies (default: experiments/results.jsonl)
    --docs      the page and its figures, made only from the results file (default: docs/)

To compare methods on your own data, use tools/compare.py.
"""

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from sar import cli

EXAMPLES = """examples:
  python experiments/run.py
  python experiments/run.py experiments/longtail_shapes.yaml --jobs 2
  python experiments/run.py experiments/ccp_imagenet.yaml --methods plain "class weights"
"""
PROJECT = Path(__file__).parents[1]
STUDIES = sorted((PROJECT / "experiments").glob("*.yaml"))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument(
        "studies", nargs="*", metavar="FILE", type=Path, help="default: all of experiments/*.yaml"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="only train these methods, without ablations (default: everything)",
    )
    parser.add_argument("--no-run", action="store_true", help="only write the page")
    parser.add_argument(
        "--jobs",
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

from sar.errors import InputError
from sar.files.program_outputs import Outputs
from sar.study.cells import Training
from sar.study.matrix import Cell, read_study
from sar.study.page import write_page
from sar.study.schedule import num_cores, run_cells, visible_gpus


def main(argv: list[str] | None = None) -> int:
    return cli.run(run, parse_args(argv), "Run it again to continue: finished trainings are kept.")


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
    has_failed = False
    trained = [study.only(args.methods) for study in studies] if args.methods else studies
    for study in () if args.no_run else trained:
        failed = run_missing(study.choice_cells(), rows, args, f"{study.title}, choice")
        if not failed:
            failed = run_missing(study.cells(rows), rows, args, study.title)
        has_failed |= bool(failed)
    shown = dict.fromkeys(path.resolve() for path in [*STUDIES, *args.studies])
    write_page([read_study(path) for path in shown], rows, docs)
    return int(has_failed)


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


def run_missing(
    cells: Sequence[Cell], rows: dict[str, dict], args: Namespace, title: str
) -> list[str]:
    """Run the cells without a row, and add their rows. Return the cells that failed."""
    gpus = visible_gpus()
    device = "cuda" if gpus else "cpu"
    jobs = args.jobs or len(gpus) or num_cores()

    def folder_of(cell: Cell) -> Path:
        return args.output / cell.study / cell.key

    def start(cell: Cell, gpu: str) -> Training:
        command = [sys.executable, str(PROJECT / "train_net.py")]
        return Training(
            cell,
            folder_of(cell),
            command=command,
            threads=args.threads,
            device=device,
            gpu=gpu,
            cwd=PROJECT,
        )

    def save(cell: Cell, row: dict) -> None:
        rows[cell.key] = row | {"parallel": jobs}
        with open(args.results, "a") as file:
            file.write(json.dumps(rows[cell.key]) + "\n")

    missing = {f"{title} ({cell.key})": cell for cell in cells if cell.key not in rows}
    return run_cells(
        missing, folder_of, start, save, gpus=gpus, jobs=jobs, title=title, quiet=args.quiet
    )


if __name__ == "__main__":
    sys.exit(main())
