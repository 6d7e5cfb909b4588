#!/usr/bin/env python
"""Compare training methods on your own data, over several seeds, and recommend one.

The methods are in configs/compare.yaml: the plain model, losses, samplers, SAR and CeCo. To compare
others, copy this file (--methods). Every method is trained with every seed, one training per GPU.
The validation split decides. If the folder has a test split, its results are reported too.

A stopped program continues: finished trainings are kept, and interrupted ones go on from their last
checkpoint. Failed trainings do not stop the others. Run the same command again to repeat them.

In --output:
  comparison.md    tables with differences and intervals, and the recommendation
  report.html      the page of tools/report.py over all trainings
  runs/            one OUTPUT_DIR for each training
"""

import argparse
import json
import logging
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from sar import cli

EXAMPLES = """examples:
  python tools/compare.py --folder mine
  python tools/compare.py --folder mine --seeds 5 \\
      --config-file configs/Folder/baseline_sem_fpn_R_50.yaml SOLVER.IMS_PER_BATCH 16
  python tools/compare.py --folder scans \\
      --config-file configs/Folder/baseline_sparse_unet_small.yaml
  python tools/compare.py --folder mine --list
"""
CONFIG = "configs/Folder/baseline_sem_fpn_efficientnet_lite0.yaml"
METHODS = "configs/compare.yaml"
TRAIN = [str(Path(__file__).parents[1] / "train_net.py")]
RESULT = "result.json"  # in the folder of a finished training


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--folder",
        type=cli.path,
        metavar="FOLDER",
        help="your data set: classes.txt, images/, labels/, or classes.txt, clouds/ (default: the "
        "data sets of the config)",
    )
    parser.add_argument(
        "--methods",
        type=cli.path,
        default=METHODS,
        metavar="FILE",
        help="YAML file with the methods (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=cli.positive, default=3, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--iterations",
        type=cli.positive,
        default=0,
        metavar="N",
        help="length of each training (default: 30 epochs, but at least 1,000 iterations, and at "
        "most SOLVER.MAX_ITER of the config)",
    )
    parser.add_argument(
        "--jobs",
        type=cli.positive,
        metavar="N",
        help="trainings at the same time (default: one per GPU; without a GPU, 1)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--list", action="store_true", help="only list the trainings, one per line")
    which.add_argument(
        "--cell",
        type=cli.count,
        metavar="N",
        help="only run training N of --list, such as in an array job",
    )
    cli.add_output(
        parser,
        "FOLDER",
        "default: output/compare/NAME of the data set",
        required=False,
    )
    cli.add_config(parser, default=CONFIG)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

from tqdm import tqdm

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency, fingerprint_of
from sar.data.datasets import load_dataset
from sar.errors import InputError, printable
from sar.files import lock
from sar.files.atomic import write_atomically
from sar.files.program_outputs import Outputs
from sar.files.run_folder import CLASS_FREQUENCY, LAST_CHECKPOINT
from sar.report import Run, compare, render, warnings_of
from sar.study.cells import (
    Training,
    data_folders,
    find_training,
    holds_training,
    iterations_done,
)
from sar.study.comparison import (
    check_methods,
    folder_name,
    label_pixels,
    plan_comparison,
    read_files,
    read_methods,
    trainings,
)
from sar.study.matrix import Cell, Study
from sar.study.schedule import num_cores, run_cells, visible_gpus
from sar.study.summary import advise, changed_code, summarize
from sar.user_code import checksums

logger = logging.getLogger("compare")


def main(argv: list[str] | None = None) -> int:
    try:
        return cli.run(
            run, parse_args(argv), "Run it again to continue: finished trainings are kept."
        )
    finally:
        lock.release()


def run(args: Namespace) -> int:
    """Run what is missing, and write the results. Return 1 if a training failed, else 0.

    Raises:
        InputError: a problem in a method, the config or the data; a file in --output would be
            replaced that this program did not write.
    """
    study = plan_comparison(
        read_methods(args.methods),
        args.config_file,
        args.opts,
        folder=args.folder or "",
        num_seeds=args.seeds,
        iterations=args.iterations,
    )
    output = args.output or Path("output/compare", study.title)
    cells = {f"{method}, seed {cell.seed}": cell for method, cell in trainings(study)}
    folders = {cell.key: folder_of(output / "runs", name, cell) for name, cell in cells.items()}
    rows = {key: row for key, folder in folders.items() if (row := read_result(folder, key))}
    if args.list:
        for number, (name, cell) in enumerate(cells.items()):
            print(f"{number}\t{describe_state(cell, folders[cell.key], rows)}\t{name}")
        return 0
    if args.cell is not None:
        cells = dict([choose(list(cells.items()), args.cell)])
    check_output(output, str(study.settings.get("DATASETS.FOLDER", "")))
    for cell in cells.values():
        holds_training(folders[cell.key], cell)
    missing = {name: cell for name, cell in cells.items() if cell.key not in rows}
    outputs = Outputs(output, overwrite=args.overwrite)
    outputs.check([output / "comparison.md", output / "report.html"])
    if args.cell is None:  # the cells of an array job have folders of their own
        lock.create(output)
        lock.hold(output, "--output")
        frequency = read_files(study, progress=not args.quiet)
        started = [folders[cell.key] for cell in missing.values()]
        started = [path for path in started if (path / LAST_CHECKPOINT).is_file()]
        finished = [folders[key] for key in rows]
        check_training_labels([*finished, *started], frequency, output)
        if finished:
            names = [name for name in (study.test, study.held_out) if name]
            check_evaluation_labels(finished, names, output, progress=not args.quiet)
        if missing:
            check_methods(study, frequency)
            now = {"imports": checksums(args.imports)}
            for note in changed_code([*rows.values(), now]):
                logger.warning(note)
    failed = run_missing(missing, folders, rows, args) if missing else []
    if args.cell is None:
        write_results(study, rows, folders, outputs, args)
    return int(bool(failed))


def folder_of(runs: Path, name: str, cell: Cell) -> Path:
    """Return the folder of a training, which stays the same if its method gets another name."""
    folder = runs / folder_name(name, cell)
    others = sorted(runs.glob(f"*_{cell.key[:6]}"))
    return find_training([folder, *others], cell) or folder


def choose(cells: list[tuple[str, Cell]], number: int) -> tuple[str, Cell]:
    """Return the name and the cell with a number of --list."""
    if number >= len(cells):
        raise InputError(f"--cell {number}: expected a number of --list, 0 to {len(cells) - 1}")
    return cells[number]


def check_output(output: Path, folder: str) -> None:
    """Raise InputError if --output holds a comparison on other data than `folder`."""
    others = sorted(data_folders(output.glob("runs/*")) - {folder})
    if others:
        raise InputError(
            f"{output} holds a comparison on {others[0] or 'the data sets of a config'}: give "
            "another --output"
        )


def describe_state(cell: Cell, folder: Path, rows: dict[str, dict]) -> str:
    """Return "finished", or how far a training is."""
    done = iterations_done(folder)
    return "finished" if cell.key in rows else f"{done} of {cell.iterations} iterations"


def read_result(folder: Path, key: str) -> dict | None:
    """Return the row of a finished training; None if there is none."""
    try:
        row = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return row if row["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_training_labels(trained: list[Path], frequency: ClassFrequency, output: Path) -> None:
    """Raise InputError if the training labels have changed since a training began."""
    for folder in trained:
        if not ClassFrequency.load(folder / CLASS_FREQUENCY).counts_the_same(frequency):
            raise labels_have_changed("training labels", f"{folder} was trained", output)


def check_evaluation_labels(
    evaluated: list[Path], names: list[str], output: Path, *, progress: bool
) -> None:
    """Raise InputError if the labels of a data set have changed since its evaluation.

    They are counted only if a file has another size or time of change.

    Args:
        evaluated: folders of finished trainings.
        names: of the evaluated data sets.
        progress: show a progress bar while labels are counted.
    """
    runs = [Run.read("", folder) for folder in evaluated]
    for name in names:
        fingerprint = fingerprint_of(record["sem_seg_file_name"] for record in load_dataset(name))
        runs_before = [run for run in runs if run.label_fingerprint(name) != fingerprint]
        pixels = label_pixels(name, progress=progress) if runs_before else []
        for run in runs_before:
            if run.ground_truth(name) not in (None, pixels):
                event = f"{run.folder} was evaluated"
                raise labels_have_changed(f"labels of {name}", event, output)


def labels_have_changed(labels: str, event: str, output: Path) -> InputError:
    return InputError(
        f"the {labels} have changed since {event}, so its results cannot be compared with new "
        f"ones: give another --output, or remove {output}/runs"
    )


def run_missing(
    missing: dict[str, Cell], folders: dict[str, Path], rows: dict[str, dict], args: Namespace
) -> list[str]:
    """Run trainings, and add their rows. Return the names of the trainings that failed."""
    device = load_config(args.config_file, args.opts).MODEL.DEVICE
    gpus = visible_gpus() if device.startswith("cuda") else []
    jobs = min(args.jobs or len(gpus) or 1, len(missing))
    threads = max(1, num_cores() // jobs)
    command = [sys.executable, *TRAIN]
    command += [word for module in args.imports for word in ("--import", module)]
    if not args.quiet:
        place = f"on {len(gpus)} GPU(s)" if gpus else f"on the CPU, {threads} thread(s) each"
        print(f"{len(missing)} training(s) to run, {jobs} at a time {place}", file=sys.stderr)

    code = {}  # of each training

    def start(cell: Cell, gpu: str) -> Training:
        code[cell.key] = {"imports": checksums(args.imports)}
        return Training(
            cell,
            folders[cell.key],
            command=command,
            threads=threads,
            device="cuda" if gpu else "cpu",
            gpu=gpu,
        )

    def save(cell: Cell, row: dict) -> None:
        rows[cell.key] = row | code[cell.key]
        write_atomically(folders[cell.key] / RESULT, json.dumps(rows[cell.key]) + "\n")

    return run_cells(
        missing,
        lambda cell: folders[cell.key],
        start,
        save,
        gpus=gpus,
        jobs=jobs,
        title="Training",
        quiet=args.quiet,
    )


def write_results(
    study: Study,
    rows: dict[str, dict],
    folders: dict[str, Path],
    outputs: Outputs,
    args: Namespace,
) -> None:
    """Write comparison.md and report.html, and print the first."""

    def show_progress(items: Iterable, title: str) -> Iterable:
        return tqdm(items, printable(title), disable=args.quiet)

    text = summarize(study, rows, args.imports)
    with outputs.writing(outputs.folder / "comparison.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    if not args.quiet:
        print(text)
    runs = [
        Run.read(method, folders[cell.key])
        for method, cell in sorted(trainings(study), key=lambda pair: study.methods.index(pair[0]))
        if cell.key in rows
    ]
    if not runs:
        return
    content = compare(runs, dataset=study.test, show_progress=show_progress)
    for warning in warnings_of(content):
        logger.warning(warning)
    page = render(content, advise(study, rows))
    with outputs.writing(outputs.folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    if not args.quiet:
        print(f"Tables: {outputs.folder}/comparison.md. Page: {outputs.folder}/report.html")


if __name__ == "__main__":
    sys.exit(main())
