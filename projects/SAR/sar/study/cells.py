"""Run one training of a study in its own process, and return the result."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError
from sar.evaluation.class_groups import class_groups
from sar.study.environment import environment
from sar.study.matrix import Cell

NUM_POINTS = 20  # points of each training curve


def run_cell(
    cell: Cell, folder: Path, *, project: Path, threads: int, device: str, gpu: str = ""
) -> dict:
    """Train and evaluate a cell, and return its row of the results file.

    Args:
        cell: the training to run.
        folder: OUTPUT_DIR. If it holds an earlier training, its content is deleted first.
        project: the folder with train_net.py and configs/.
        threads: number of torch's CPU threads.
        device: MODEL.DEVICE.
        gpu: CUDA_VISIBLE_DEVICES; "" keeps its value.

    Raises:
        InputError: `folder` holds other files, or the training failed. If it failed, the message
            names the log.
    """
    settings = {
        **cell.settings,
        "DATASETS.TEST": f"('{cell.test}',)",
        "SEED": cell.seed,
        "OUTPUT_DIR": folder.resolve(),
        "MODEL.DEVICE": device,
        # Report the last evaluation, not the best one.
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
        raise InputError(f"{folder} does not hold a training of a study. Move the folder away")
    # Do not resume a stopped training: the row reports the cost of the whole training.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    commit = _commit(project)  # before the training, because the user may commit during it
    start = time.perf_counter()
    with open(log, "wb") as console:
        process = subprocess.Popen(
            command, cwd=project, env=environment_variables, stdout=console, stderr=console
        )
        _, status, usage = os.wait4(process.pid, 0)  # Ctrl-C also ends the child
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise InputError(f"{log}: {lines[-1] if lines else 'the log is empty'}")
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
    """Return at most 20 points for each loss and for the gate.

    Each point is a mean over one of the equal parts of the training.

    Args:
        lines: rows of metrics.json. Rows without losses are skipped.
    """
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
    """Return the names of the frequent, common and rare classes, the most frequent first."""
    frequency = ClassFrequency.load(folder / "class_frequency.json")
    groups = class_groups(frequency.images, ties_by=frequency.pixels)
    return {group: [frequency.class_names[i] for i in ids] for group, ids in groups.items()}


def _gpu_memory(log: Path) -> int | None:
    """Return the peak GPU memory of tensors in MiB from detectron2's log; None without a GPU."""
    found = log.read_text(errors="replace").split("max_mem: ")[1:]
    return int(found[-1].split("M")[0]) if found else None


def _commit(project: Path) -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=project, capture_output=True, text=True
    )
    return result.stdout.strip()
