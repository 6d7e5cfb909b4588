"""Keep the metrics of an interrupted training as one continuous run."""

import json
import threading
from functools import cache
from pathlib import Path

from sar.errors import InputError
from sar.files.atomic import write_atomically
from sar.files.run_folder import METRICS

from detectron2.utils.events import EventStorage, TensorboardXWriter

# Number of values that the writers smooth over. A resumed run needs them.
_WINDOW = 20


def cut_metrics(output_dir: str, iteration: int, *, keep_evaluation: bool = False) -> None:
    """Remove the lines of metrics.json from an iteration on, and an incomplete last line.

    A killed run wrote them after its last checkpoint.

    Args:
        keep_evaluation: keep the evaluation at the end of a training, whose line has this iteration
            and no loss. A training with a larger SOLVER.MAX_ITER does not repeat it.
    """
    path = Path(output_dir, METRICS)
    if not path.is_file():
        return
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    kept = "".join(line for line in lines if _is_before(line, iteration, keep_evaluation))
    if kept != "".join(lines):
        write_atomically(path, kept)


def _is_before(line: str, iteration: int, keep_evaluation: bool) -> bool:
    try:
        scalars = json.loads(line)
        if keep_evaluation and "total_loss" not in scalars:
            iteration += 1
        return line.endswith("\n") and scalars["iteration"] < iteration
    except (ValueError, KeyError, TypeError):
        return False


def storage_state(storage: EventStorage) -> dict:
    """Return the latest values of every scalar, as plain lists."""
    return {
        name: {
            "values": [[float(value), int(step)] for value, step in history.values()[-_WINDOW:]],
            "is_smoothed": storage.smoothing_hints()[name],
        }
        for name, history in storage.histories().items()
    }


def restore_storage(storage: EventStorage, state: dict, unwritten: int | None) -> None:
    """Put the values of `storage_state` into a new storage.

    Args:
        unwritten: an iteration whose scalars are not written yet, or None.
    """
    for name, scalar in state.items():
        storage.smoothing_hints()[name] = scalar["is_smoothed"]
        for value, iteration in scalar["values"]:
            if iteration == unwritten:
                storage.iter = iteration
                storage.put_scalar(name, value, smoothing_hint=scalar["is_smoothed"])
            else:
                storage.histories()[name].update(value, iteration)


class TensorboardWriter(TensorboardXWriter):
    """detectron2's writer, which flushes after each write, so that a killed process loses nothing.

    Raises:
        InputError: TensorBoard is not installed.
        OSError: writing fails, or has failed in TensorBoard's thread.
    """

    def __init__(self, log_dir: str, **kwargs) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401  newer releases do when they write
        except ImportError as error:
            raise InputError(
                f"TensorBoard cannot be imported ({error}): pip install tensorboard, or leave "
                "TensorboardWriter out in build_writers of a Trainer of your own"
            ) from error
        _mute_event_writers()
        super().__init__(log_dir, **kwargs)

    def write(self) -> None:
        super().write()
        self._writer.flush()


@cache
def _mute_event_writers() -> None:
    """Do not print errors of TensorBoard's threads: their writer raises them again."""
    hook = threading.excepthook

    def handle(args) -> None:
        is_event_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_event_writer and isinstance(args.exc_value, OSError)):
            hook(args)

    threading.excepthook = handle
