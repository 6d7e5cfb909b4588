"""What a finished run has left in its OUTPUT_DIR.

K: number of classes.
"""

import glob
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sar.data.class_frequency import ClassFrequency
from sar.engine.history import METRICS
from sar.engine.prepare import CLASS_FREQUENCY_FILE
from sar.errors import InputError

EVALUATION = "sem_seg_evaluation.json"
# Points of a curve that a page can show.
_MAX_POINTS = 400
# Scalars of metrics.json that say nothing of what was learnt.
_NO_CURVES = ("iteration", "data_time", "eta_seconds", "time", "rank_data_time")

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Run:
    """A folder that train_net.py wrote.

    Attributes:
        method: what it is a run of; runs of one method differ in their seed alone.
        folder: its OUTPUT_DIR.
        evaluations: by data set, the content of sem_seg_evaluation.json.
    """

    method: str
    folder: Path
    evaluations: dict[str, dict]

    def checkpoint(self) -> Path | None:
        """model_best.pth, else model_final.pth, else None."""
        paths = [self.folder / f"model_{name}.pth" for name in ("best", "final")]
        return next(filter(Path.is_file, paths), None)

    def class_frequency(self) -> ClassFrequency | None:
        """That of its training set, where the run has left it."""
        folders = (self.folder, self.folder / "inference")
        paths = [folder / CLASS_FREQUENCY_FILE for folder in folders]
        path = next(filter(Path.is_file, paths), None)
        return ClassFrequency.load(path) if path else None

    def curves(self) -> dict[str, Curve]:
        """By name, (iteration, value) of the finite scalars of metrics.json, evenly thinned.

        Without those of single classes, which are in the table, and without times.
        """
        path = self.folder / METRICS
        curves: dict[str, Curve] = {}
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        for line in lines:
            try:
                scalars = json.loads(line)
                iteration = int(scalars["iteration"])
            except (ValueError, KeyError, TypeError):  # the half line of a run that was killed
                continue
            for name, value in scalars.items():
                is_of_a_class = "/IoU-" in name or "/ACC-" in name
                if name in _NO_CURVES or is_of_a_class or not _is_finite(value):
                    continue
                curve = curves.setdefault(name, [])
                while curve and curve[-1][0] >= iteration:  # of a training before this one
                    curve.pop()
                curve.append((iteration, float(f"{value:.5g}")))
        return {name: _thinned(curve) for name, curve in sorted(curves.items())}


def find_runs(words: Sequence[str]) -> list[Run]:
    """The runs that a command line names.

    Args:
        words: `FOLDER` or `NAME=FOLDER`, which may be a pattern, such as `sar=output/sar_*`. NAME
            is the method, by default the folder's name. What has one name is one method.

    Raises:
        InputError: a folder that is not there, is no run or is given twice.
    """
    runs: dict[Path, Run] = {}
    for word in words:
        name, equals, pattern = word.partition("=")
        if not equals or os.path.isdir(word):
            name, pattern = "", word
        folders = [pattern] if os.path.isdir(pattern) else sorted(glob.glob(pattern))
        folders = [Path(folder) for folder in folders if os.path.isdir(folder)]
        if not folders:
            raise InputError(f"run {word}: there is no folder {pattern}: correct the path")
        for folder in folders:
            resolved = folder.resolve()
            if resolved in runs:
                raise InputError(f"run {folder} is given twice: leave one out")
            runs[resolved] = Run(name or resolved.name, folder, _evaluations(folder))
    return list(runs.values())


def _evaluations(folder: Path) -> dict[str, dict]:
    evaluations = {}
    for path in sorted(folder.glob(f"inference/*/{EVALUATION}")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names, metrics, _ = (content[key] for key in ("class_names", "metrics", "num_images"))
            is_whole = {"mIoU", *(f"IoU-{name}" for name in names)} <= metrics.keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} cannot be read ({error!r}): write it with train_net.py --eval-only"
            ) from error
        if not is_whole:
            raise InputError(
                f"{path} lacks the mIoU, or the IoU of a class: write it with train_net.py "
                "--eval-only"
            )
        evaluations[path.parent.name] = content
    if not evaluations:
        raise InputError(
            f"{folder} is no run: it has no inference/DATA_SET/{EVALUATION}. Give the OUTPUT_DIR "
            "of a training that has ended, or evaluate it there with train_net.py --eval-only"
        )
    return evaluations


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _thinned(curve: Curve) -> Curve:
    """At most _MAX_POINTS of a curve, its ends among them."""
    if len(curve) <= _MAX_POINTS:
        return curve
    last = len(curve) - 1
    return [curve[round(i * last / (_MAX_POINTS - 1))] for i in range(_MAX_POINTS)]
