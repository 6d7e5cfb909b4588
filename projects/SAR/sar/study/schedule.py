"""Run the trainings of a study, several at the same time, with one progress bar."""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from sar.errors import InputError
from sar.study.cells import Training, iterations_done
from sar.study.matrix import Cell

_PERIOD = 0.5  # seconds between two looks at the trainings
# Seconds between two states of the progress bar, on a console and in a file.
_BAR_PERIODS = (1, 60)


def visible_gpus() -> list[str]:
    """Return the names in CUDA_VISIBLE_DEVICES if it is set, else the numbers of all GPUs."""
    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named else list(map(str, range(torch.cuda.device_count())))


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_cells(
    cells: Mapping[str, Cell],
    folder_of: Callable[[Cell], Path],
    start: Callable[[Cell, str], Training],
    save: Callable[[Cell, dict], None],
    *,
    gpus: Sequence[str],
    jobs: int,
    title: str,
    quiet: bool = False,
) -> list[str]:
    """Run trainings. A failed training does not stop the others.

    After Ctrl-C or SIGTERM, the running trainings write a checkpoint and end.

    Args:
        cells: the trainings by the names that messages use.
        folder_of: returns the OUTPUT_DIR of a cell.
        start: starts the training of a cell on a GPU, or without one: "".
        save: called with each finished cell and its row.
        gpus: the GPUs; with more jobs than GPUs, trainings share them. Empty for the CPU.
        jobs: the number of trainings at the same time.
        title: the text before the progress bar.
        quiet: show no progress bar.

    Returns:
        The names of the trainings that failed. The reasons are printed.

    Raises:
        SystemExit: after a SIGTERM, with code 143.
    """
    free = deque(gpus[i % len(gpus)] if gpus else "" for i in range(jobs))
    waiting = deque(cells)
    running: dict[str, tuple[Training, str]] = {}
    done = {name: _done(cell, folder_of(cell)) for name, cell in cells.items()}
    failed = []
    total = sum(cell.iterations for cell in cells.values())
    # The mean rate since the start: trainings begin and end with steps that take longer.
    with tqdm(
        desc=title,
        total=total,
        initial=sum(done.values()),
        unit="it",
        smoothing=0,
        mininterval=_BAR_PERIODS[not sys.stderr.isatty()],
        disable=quiet,
    ) as bar:

        def fail(name: str, error: InputError) -> None:
            failed.append(name)
            bar.total -= cells[name].iterations - done[name]
            bar.write(f"error: {name}: {error}", file=sys.stderr)

        with _stopping(running), _terminable():
            while waiting or running:
                while waiting and free:
                    name, gpu = waiting.popleft(), free.popleft()
                    try:
                        running[name] = start(cells[name], gpu), gpu
                    except InputError as error:
                        free.append(gpu)
                        fail(name, error)
                time.sleep(_PERIOD)
                for name, (training, gpu) in list(running.items()):
                    done[name] = _done(cells[name], training.folder)
                    if training.is_done():
                        del running[name]
                        free.append(gpu)
                        try:
                            save(cells[name], training.result())
                            done[name] = cells[name].iterations
                        except InputError as error:
                            fail(name, error)
                bar.set_postfix_str(", ".join(running), refresh=False)
                bar.update(sum(done.values()) - bar.n)
    return failed


def _done(cell: Cell, folder: Path) -> int:
    # The line of the last evaluation has the number of the iteration after the last one.
    return min(iterations_done(folder), cell.iterations)


@contextmanager
def _stopping(running: dict[str, tuple[Training, str]]) -> Iterator[None]:
    """Stop the trainings that still run at the end of the block."""
    try:
        yield
    finally:
        trainings = [training for training, _ in running.values()]
        if trainings:
            print("Stopping: the trainings write a checkpoint first.", file=sys.stderr)
        for training in trainings:
            training.terminate()
        for training in trainings:
            training.wait()


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise SystemExit in the block after a SIGTERM."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
