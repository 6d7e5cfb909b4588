"""The metrics of a training as one continuous run, however often it was interrupted."""

import json
import threading
from functools import cache
from pathlib import Path

from sar.errors import InputError
from sar.files.atomic import write_atomically
from sar.files.run_folder import METRICS

from detectron2.utils.events import EventStorage, TensorboardXWriter

# The writers smooth over so many values, which a resumed run has to know.
_WINDOW = 20


def cut_metrics(output_dir: str, iteration: int) -> None:
    """Takes out of metrics.json what comes at or after an iteration, and a half line at its end:
    what a run wrote after its last checkpoint, before it was killed."""
    path = Path(output_dir, METRICS)
    if not path.is_file():
        return
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    kept = "".join(line for line in lines if _is_before(line, iteration))
    if kept != "".join(lines):
        write_atomically(path, kept)


def _is_before(line: str, iteration: int) -> bool:
    try:
        return line.endswith("\n") and json.loads(line)["iteration"] < iteration
    except (ValueError, KeyError, TypeError):
        return False


def storage_state(storage: EventStorage) -> dict:
    """The latest values of every scalar, as plain lists."""
    return {
        name: {
            "values": [[float(value), int(step)] for value, step in history.values()[-_WINDOW:]],
            "is_smoothed": storage.smoothing_hints()[name],
        }
        for name, history in storage.histories().items()
    }


def restore_storage(storage: EventStorage, state: dict, unwritten: int | None) -> None:
    """Gives a new storage what `storage_state` kept.

    Args:
        unwritten: the iteration whose scalars no writer has written yet, if there is one.
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
    """detectron2's, which leaves nothing in memory that is lost when the process is killed.

    Raises:
        InputError: TensorBoard is not installed.
        OSError: while it writes, if its disk fails, or has failed in its own thread.
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
    """Leaves the errors of TensorBoard's threads to their writer, which raises them again."""
    hook = threading.excepthook

    def handle(args) -> None:
        is_event_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_event_writer and isinstance(args.exc_value, OSError)):
            hook(args)

    threading.excepthook = handle
