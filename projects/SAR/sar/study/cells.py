"""Train and evaluate one cell of a study in its own process."""

import ctypes
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sar.config_file import flattened, read_config_file
from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError, listed
from sar.evaluation.class_groups import class_groups
from sar.files.atomic import write_atomically
from sar.files.run_folder import (
    CHECKPOINT,
    CLASS_FREQUENCY,
    EVALUATION,
    INFERENCE,
    LAST_CHECKPOINT,
    METRICS,
)
from sar.study.environment import environment
from sar.study.matrix import Cell, Settings

NUM_POINTS = 20  # points of each training curve

# Files of a cell in its OUTPUT_DIR, next to the files of the training.
CELL = "cell.json"
CONSOLE = "console.txt"

_PR_SET_PDEATHSIG = 1  # of prctl(2)
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_TAIL = 2**18  # bytes of a log that hold its last lines; a line has all metrics of all classes


class Training:
    """A training of a cell in its own process, which starts at once.

    If the folder holds an interrupted training of the same cell, it continues from its last
    checkpoint. When this process ends, even by SIGKILL, the system sends SIGTERM to the training
    (on Linux), which then writes a checkpoint and ends.

    Args:
        cell: the training to run.
        folder: OUTPUT_DIR.
        command: the words that start train_net.py.
        threads: number of torch's CPU threads.
        device: MODEL.DEVICE.
        gpu: CUDA_VISIBLE_DEVICES; "" keeps its value.
        cwd: the folder that relative paths in the config start from; None for the current one.

    Raises:
        InputError: as `holds_training`.
    """

    def __init__(
        self,
        cell: Cell,
        folder: Path,
        *,
        command: Sequence[str],
        threads: int,
        device: str,
        gpu: str = "",
        cwd: Path | None = None,
    ) -> None:
        self.cell, self.folder = cell, folder
        self._threads, self._device = threads, device
        self._exit_code: int | None = None
        if not holds_training(folder, cell, cwd):
            _claim(folder, cell, cwd)
        self._is_resumed = (folder / LAST_CHECKPOINT).is_file()
        environment_variables = os.environ | {"OMP_NUM_THREADS": str(threads)}
        if gpu:
            environment_variables["CUDA_VISIBLE_DEVICES"] = gpu
        words = [str(word) for pair in _overrides(cell, folder, device).items() for word in pair]
        self._commit = _commit()  # before the training, because the user may commit during it
        self._start = time.perf_counter()
        with open(folder / CONSOLE, "ab") as console:
            self._process = subprocess.Popen(
                [*command, "--config-file", cell.config, "--resume", *words],
                cwd=cwd,
                env=environment_variables,
                stdout=console,
                stderr=console,
                start_new_session=True,  # Ctrl-C must not reach it: SIGTERM saves a checkpoint
                preexec_fn=_end_with_parent,
            )

    def is_done(self) -> bool:
        """Return True if the process has ended."""
        if self._exit_code is None:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid == 0:
                return False
            self._seconds = time.perf_counter() - self._start
            self._usage = usage
            self._exit_code = self._process.returncode = os.waitstatus_to_exitcode(status)
        return True

    def terminate(self) -> None:
        """Send SIGTERM: the training writes a checkpoint and ends."""
        if not self.is_done():
            self._process.terminate()

    def wait(self) -> None:
        """Wait until the process has ended."""
        while not self.is_done():
            time.sleep(0.1)

    def result(self) -> dict:
        """Return the row of the results file, and delete the checkpoints before the final one.

        Raises:
            InputError: the training failed. The message has its last line and names the log.
        """
        if self._exit_code != 0:
            raise InputError(f"{_reason(self.folder, self._exit_code)} (log: {self._log})")
        cell, folder = self.cell, self.folder
        lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
        times = [line["time"] for line in lines if "time" in line]
        row = {
            "study": cell.study,
            "key": cell.key,
            "config": cell.config,
            "settings": cell.settings,
            "test": cell.test,
            "seed": cell.seed,
            "metrics": _metrics(folder, cell.test),
            "groups": _groups(folder),
            "curves": curves(lines),
            "seconds": round(self._seconds, 1),
            # The timer of detectron2 leaves out the first iterations.
            "seconds_per_iteration": statistics.median(times) if times else float("nan"),
            "cpu_seconds": round(self._usage.ru_utime + self._usage.ru_stime, 1),
            "resident_mib": round(self._usage.ru_maxrss / 2**10, 1),
            "gpu_mib": _gpu_memory(self._log),
            "is_resumed": self._is_resumed,
            "commit": self._commit,
            **environment(self._device),
            "threads": self._threads,
        }
        if cell.held_out:
            row |= {"held_out": cell.held_out, "held_out_metrics": _metrics(folder, cell.held_out)}
        for path in folder.glob("model_*.pth"):
            found = CHECKPOINT.fullmatch(path.name)
            if found and found["iteration"].isdecimal():
                path.unlink()
        return row

    @property
    def _log(self) -> Path:
        return self.folder / CONSOLE


def iterations_done(folder: Path) -> int:
    """Return how many iterations the training in a folder has logged."""
    for line in reversed(_last_lines(folder / METRICS)):
        try:
            return int(json.loads(line)["iteration"]) + 1
        except (ValueError, KeyError, TypeError):
            continue  # the first line of the part, or one that is being written
    return 0


def curves(lines: list[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return at most 20 points for each loss and for the gate.

    Each point is a mean over one of the equal parts of the training. The last row, which can be a
    part of its own, may lack the gate, which is logged with a period: its point is the one before.

    Args:
        lines: rows of metrics.json. Rows without losses are skipped.
    """
    lines = [line for line in lines if "total_loss" in line]
    size = -(-len(lines) // NUM_POINTS)
    parts = [lines[i : i + size] for i in range(0, len(lines), size)]
    names = [name for name in lines[0] if name.startswith(("loss_", "sar/"))]
    result = {"iteration": [float(part[-1]["iteration"]) for part in parts]}
    for name in names:
        points = result[name] = []
        for part in parts:
            values = [line[name] for line in part if name in line]
            points.append(float(f"{statistics.fmean(values):.4g}") if values else points[-1])
    return result


def _groups(folder: Path) -> dict[str, list[str]]:
    """Return the names of the frequent, common and rare classes, the most frequent first."""
    frequency = ClassFrequency.load(folder / CLASS_FREQUENCY)
    groups = class_groups(frequency.images, ties_by=frequency.pixels)
    return {group: [frequency.class_names[i] for i in ids] for group, ids in groups.items()}


def _metrics(folder: Path, dataset: str) -> dict[str, float]:
    """Return the metrics of the final weights on a data set; NaN for classes without pixels."""
    content = json.loads((folder / INFERENCE / dataset / EVALUATION).read_text(encoding="utf-8"))
    found = {f"sem_seg/{name}": value for name, value in content["metrics"].items()}
    found |= {f"geometry/{name}": value for name, value in content.get("geometry", {}).items()}
    return {name: float("nan") if value is None else value for name, value in found.items()}


def holds_training(folder: Path, cell: Cell, cwd: Path | None = None) -> bool:
    """Return True if a folder holds the training of a cell, False if it is missing or empty.

    Args:
        cwd: the folder that the path of the config starts from; None for the current one.

    Raises:
        InputError: the folder holds other files, or the config has changed since the training.
    """
    known = _read_cell(folder)
    if known.get("key") != cell.key:
        if folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder} does not hold this training of a study. Move the folder away"
            )
        return False
    now = _config_keys(cell, cwd)
    before = known.get("config_keys", now)
    has_effect = (before | now).keys() - _overrides(cell, folder, "").keys()
    changed = sorted(key for key in has_effect if before.get(key) != now.get(key))
    if changed:
        raise InputError(
            f"{cell.config} has changed since {folder} was trained ({listed(changed, 3)}), so old "
            "and new results cannot be compared. Undo the change, or move the folder away"
        )
    return True


def find_training(folders: Iterable[Path], cell: Cell) -> Path | None:
    """Return the first of several folders that holds the training of a cell."""
    return next((path for path in folders if _read_cell(path).get("key") == cell.key), None)


def data_folders(folders: Iterable[Path]) -> set[str]:
    """Return DATASETS.FOLDER of the trainings in several folders; "" if the config names data."""
    cells = [cell for cell in map(_read_cell, folders) if "settings" in cell]
    return {str(cell["settings"].get("DATASETS.FOLDER", "")) for cell in cells}


def _read_cell(folder: Path) -> dict:
    """Return what a folder says about its training; {} if it holds none."""
    try:
        known = json.loads((folder / CELL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _claim(folder: Path, cell: Cell, cwd: Path | None) -> None:
    """Create the folder of a cell."""
    content = {"key": cell.key, "config": cell.config, "settings": cell.settings}
    content |= {"test": cell.test, "seed": cell.seed, "config_keys": _config_keys(cell, cwd)}
    write_atomically(folder / CELL, json.dumps(content, indent=2) + "\n")


def _overrides(cell: Cell, folder: Path, device: str) -> Settings:
    """Return the keys that a training sets, whatever values its config file has."""
    return {
        # Evaluate the final weights, so that no checkpoint has to be chosen.
        "TEST.BEST_METRIC": "",
        "TEST.GEOMETRY": True,
        **cell.settings,
        "DATASETS.TEST": tuple(name for name in (cell.test, cell.held_out) if name),
        "SEED": cell.seed,
        "OUTPUT_DIR": folder.resolve(),
        "MODEL.DEVICE": device,
    }


def _config_keys(cell: Cell, cwd: Path | None) -> dict[str, object]:
    """Return the keys that the config of a cell sets, as they are in JSON."""
    keys = dict(flattened(read_config_file(str(Path(cwd or "", cell.config)))))
    return json.loads(json.dumps(keys))


def _end_with_parent() -> None:
    """Ask the system for a SIGTERM when the parent ends. The new process calls this."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _reason(folder: Path, exit_code: int) -> str:
    """Return why a training failed: a signal, or the last line of its log."""
    if exit_code < 0:
        number = -exit_code
        hint = " (often: out of memory)" if number == signal.SIGKILL else ""
        return f"the training was ended by {signal.Signals(number).name}{hint}"
    lines = [line for line in _last_lines(folder / CONSOLE) if line.strip()]
    return lines[-1].strip().removeprefix("error: ") if lines else "the log is empty"


def _last_lines(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _gpu_memory(log: Path) -> int | None:
    """Return the peak GPU memory of tensors in MiB from detectron2's log; None without a GPU."""
    found = log.read_text(errors="replace").split("max_mem: ")[1:]
    return int(found[-1].split("M")[0]) if found else None


def _commit() -> str:
    """Return the commit of this project; "" outside a checkout."""
    folder = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True
        )
    except OSError:  # git is not installed
        return ""
    return result.stdout.strip()
