"""One training of a study, in a process of its own, and what is kept of it."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from harness import environment

from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError
from sar.evaluation.class_groups import class_groups

from .matrix import Cell

PROJECT = Path(__file__).parents[2]
NUM_POINTS = 20  # of each training curve


def run_cell(cell: Cell, folder: Path, *, threads: int, device: str, gpu: str = "") -> dict:
    """Trains and evaluates in `folder`, which is emptied before; the result as a row.

    Args:
        cell: what to train.
        folder: OUTPUT_DIR.
        threads: of torch, on the CPU.
        device: MODEL.DEVICE.
        gpu: CUDA_VISIBLE_DEVICES; "" leaves it as it is.

    Raises:
        InputError: it failed, with the place of its log.
    """
    settings = {
        **cell.settings,
        "DATASETS.TEST": f"('{cell.test}',)",
        "SEED": cell.seed,
        "OUTPUT_DIR": folder.resolve(),
        "MODEL.DEVICE": device,
        # That of the last evaluation is reported, not that of the best.
        "TEST.BEST_METRIC": "",
        "TEST.GEOMETRY": True,
    }
    command = [sys.executable, "train_net.py", "--config-file", cell.config]
    command += [str(word) for pair in settings.items() for word in pair]
    environment_variables = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if gpu:
        environment_variables["CUDA_VISIBLE_DEVICES"] = gpu
    log = folder / "console.txt"
    if folder.exists() and any(folder.iterdir()) and not log.is_file():
        raise InputError(f"{folder} is not the folder of a training of a study: move it away")
    # A training that was stopped is not resumed: what it costs is measured too.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    commit = _commit()  # what is trained is of now
    start = time.perf_counter()
    with open(log, "wb") as console:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment_variables, stdout=console, stderr=console
        )
        _, status, usage = os.wait4(process.pid, 0)  # a Ctrl-C ends it, too
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise InputError(f"{log}: {lines[-1] if lines else 'it is empty'}")
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {
        "study": cell.study,
        "key": cell.key,
        "config": cell.config,
        "settings": cell.settings,
        "test": cell.test,
        "seed": cell.seed,
        "metrics": {
            name: value
            for name, value in lines[-1].items()
            if name.startswith(("sem_seg/", "geometry/"))
        },
        "groups": _groups(folder),
        "curves": curves(lines),
        "seconds": round(time.perf_counter() - start, 1),
        "seconds_per_iteration": statistics.median(
            line["time"] for line in lines if "time" in line
        ),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "resident_mib": round(usage.ru_maxrss / 2**10, 1),
        "gpu_mib": _gpu_memory(log),
        "commit": commit,
        **environment(device),
        "threads": threads,
    }


def curves(lines: list[Mapping[str, float]]) -> dict[str, list[float]]:
    """Losses and gate over the training, each the mean of the lines of a twentieth of it."""
    lines = [line for line in lines if "total_loss" in line]
    size = -(-len(lines) // NUM_POINTS)
    parts = [lines[i : i + size] for i in range(0, len(lines), size)]
    names = [name for name in lines[0] if name.startswith(("loss_", "sar/"))]
    result = {"iteration": [float(part[-1]["iteration"]) for part in parts]}
    for name in names:
        means = (statistics.fmean(line[name] for line in part) for part in parts)
        result[name] = [float(f"{mean:.4g}") for mean in means]
    return result


def _groups(folder: Path) -> dict[str, list[str]]:
    """The names of the frequent, common and rare classes, the most frequent first."""
    frequency = ClassFrequency.load(folder / "class_frequency.json")
    groups = class_groups(frequency.images, ties_by=frequency.pixels)
    return {group: [frequency.class_names[i] for i in ids] for group, ids in groups.items()}


def _gpu_memory(log: Path) -> int | None:
    """What detectron2 says of the most memory of tensors on a GPU, in MiB."""
    found = log.read_text(errors="replace").split("max_mem: ")[1:]
    return int(found[-1].split("M")[0]) if found else None


def _commit() -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True
    )
    return result.stdout.strip()
