"""Read the results of a run from its OUTPUT_DIR.

K: number of classes.
"""

import glob
import json
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sar.data.class_frequency import ClassFrequency
from sar.data.units import CLOUDS, IMAGES, Units
from sar.errors import InputError, shortened
from sar.evaluation.class_metrics import CLASS_METRICS
from sar.evaluation.table import GROUP_NAMES
from sar.files.atomic import sha256
from sar.files.run_folder import (
    CLASS_FREQUENCY,
    CONFIG,
    EVALUATION,
    INFERENCE,
    LAST_CHECKPOINT,
    LOCK,
    LOG,
    METRICS,
    RUN,
    previous_runs,
)

# Maximum number of points of a curve on the page.
_MAX_POINTS = 400
# Scalars of metrics.json that say nothing about the progress of the training.
_NO_CURVES = ("iteration", "data_time", "eta_seconds", "time", "rank_data_time")

# Prefixes of keys that change the numbers of an evaluation, and of keys that add numbers.
OF_EVALUATION = (
    "TEST.MODE",
    "TEST.AUG",
    "TEST.CROP",
    "TEST.OBJECT_IOU",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
)
_ADDING = ("TEST.OBJECTS", "TEST.BOUNDARY_IOU", "TEST.LOSS", "TEST.GEOMETRY")

# Checkpoints whose evaluations with --eval-only are in inference/NAME/DATA_SET.
_EVALUATED = ("model_best", "model_final")

# Key of the confusion matrix in sem_seg_evaluation.json.
_CONFUSION = "confusion_truth_by_prediction"

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Run:
    """A folder that train_net.py wrote.

    Attributes:
        method: name of the method. Its runs differ only in the seed.
        folder: OUTPUT_DIR of the run.
        evaluations: content of sem_seg_evaluation.json, by data set.
        evaluated: name of the checkpoint that `--eval-only` evaluated, by data set; "" for an
            evaluation during the training.
        notes: sentences about evaluations that are not used.
    """

    method: str
    folder: Path
    evaluations: dict[str, dict]
    evaluated: dict[str, str]
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, method: str, folder: Path) -> "Run":
        """Return the run in a folder.

        Raises:
            InputError: the folder has no evaluation, or a broken one.
        """
        return cls(method, folder, *_evaluations(folder))

    def source(self, dataset: str) -> str:
        """Return a text that names the checkpoint evaluated on a data set."""
        file = _evaluated_weights(self.evaluations[dataset]).get("file")
        file = os.path.basename(file) if isinstance(file, str) else ""
        if self.evaluated[dataset]:
            return file or f"{self.evaluated[dataset]}.pth"
        return "the last evaluation of the training" + (f", of {file}" if file else "")

    def is_of_best(self, dataset: str) -> bool:
        """Return True if model_best.pth was evaluated on a data set."""
        return self.evaluated[dataset] == _EVALUATED[0]

    def checkpoint(self) -> Path | None:
        """Return model_best.pth, else model_final.pth, else None."""
        paths = [self.folder / f"model_{name}.pth" for name in ("best", "final")]
        return next(filter(Path.is_file, paths), None)

    def config_file(self) -> Path:
        """Return the path of its config.

        Raises:
            InputError: the file is missing.
        """
        path = self.folder / CONFIG
        if not path.is_file():
            raise InputError(f"File not found: {path}.")
        return path

    def files(self) -> list[Path]:
        """Return the files that trainings and evaluations wrote, including earlier runs."""
        names = (
            RUN,
            LOCK,
            CONFIG,
            METRICS,
            CLASS_FREQUENCY,
            LAST_CHECKPOINT,
            f"{LOG}*",
            "*.pth",
            "*tfevents*",
            f"{INFERENCE}/**/*",
        )
        folders = (self.folder, *previous_runs(self.folder))
        return [path for folder in folders for name in names for path in folder.glob(name)]

    def class_frequency(self) -> ClassFrequency | None:
        """Return the counts of the training set, or None if the run did not write them."""
        path = self.folder / CLASS_FREQUENCY
        return ClassFrequency.load(path) if path.is_file() else None

    def curves(self) -> dict[str, Curve]:
        """Return the curves in metrics.json by name: (iteration, value), at most 400 points each.

        Metrics of single classes, times and values that are not finite are left out.

        Raises:
            InputError: metrics.json cannot be read.
        """
        curves: dict[str, Curve] = {}
        for iteration, scalars in _read_metrics(self.folder):
            for name, value in scalars.items():
                is_of_a_class = any(f"/{metric}-" in name for metric in CLASS_METRICS)
                if name in _NO_CURVES or is_of_a_class or not _is_finite(value):
                    continue
                curve = curves.setdefault(name, [])
                while curve and curve[-1][0] >= iteration:  # points of an earlier training
                    curve.pop()
                curve.append((iteration, float(f"{value:.5g}")))
        return {name: _thinned(curve) for name, curve in sorted(curves.items())}

    def iterations(self, dataset: str) -> int | None:
        """Return the number of iterations before the evaluation; None if it is unknown.

        Raises:
            InputError: metrics.json cannot be read.
        """
        evaluated = _evaluated_after(self.evaluations[dataset])
        return _iterations_done(self.folder) if evaluated is None else evaluated

    def test_sets(self, dataset: str) -> list[str]:
        """Return DATASETS.TEST of an evaluation; [] if it is not recorded."""
        recorded = self.evaluations[dataset].get("config")
        names = recorded.get("DATASETS.TEST") if isinstance(recorded, dict) else None
        return names if isinstance(names, list) else []

    def units(self, dataset: str) -> Units:
        """Return what the samples of a data set are called. Without a recorded config: images."""
        recorded = self.evaluations[dataset].get("config")
        has_voxels = isinstance(recorded, dict) and recorded.get("INPUT.POINTS.VOXEL_SIZE")
        return CLOUDS if has_voxels else IMAGES

    def confusion(self, dataset: str) -> np.ndarray | None:
        """Return the confusion matrix (K, K) of an evaluation; None if it is not recorded.

        Row: true class; column: predicted class.
        """
        confusion = self.evaluations[dataset].get(_CONFUSION)
        return None if confusion is None else np.array(confusion)

    def ground_truth(self, dataset: str) -> list[int] | None:
        """Return the pixels of each class in the labels of an evaluation; None if not recorded."""
        confusion = self.confusion(dataset)
        return None if confusion is None else confusion.sum(axis=1).tolist()

    def label_fingerprint(self, dataset: str) -> str:
        """Return `fingerprint_of` the label files of an evaluation; "" if not recorded."""
        data = self.evaluations[dataset].get("data")
        return str(data.get("fingerprint", "")) if isinstance(data, dict) else ""


def find_runs(words: Sequence[str]) -> list[Run]:
    """Return the runs that a command line names.

    Args:
        words: `FOLDER` or `NAME=FOLDER`. FOLDER may be a pattern, such as `sar=output/sar_*`. NAME
            is the method, by default the name of the folder. Runs with the same name are one
            method. A word that is itself a folder, or matches folders as `lr=*` matches `lr=0.1`,
            has no NAME.

    Raises:
        InputError: a folder does not exist, is not a run, or is given twice.
    """
    runs: dict[Path, Run] = {}
    for word in words:
        name, pattern = "", word
        folders = _folders(word)
        if not folders and "=" in word:
            name, _, pattern = word.partition("=")
            folders = _folders(pattern)
        if not folders:
            raise InputError(f"run {word}: folder not found: {pattern}. Correct the path")
        for folder in folders:
            resolved = folder.resolve()
            if resolved in runs:
                raise InputError(f"run {folder} is given twice: remove one")
            runs[resolved] = Run.read(name or resolved.name, folder)
    return list(runs.values())


def _folders(pattern: str) -> list[Path]:
    pattern = os.path.expanduser(pattern)
    paths = [pattern] if os.path.isdir(pattern) else sorted(glob.glob(pattern))
    return [Path(path) for path in paths if os.path.isdir(path)]


def _evaluations(folder: Path) -> tuple[dict[str, dict], dict[str, str], tuple[str, ...]]:
    """Return the evaluations of a run and their checkpoints, by data set, and notes.

    An evaluation during the training is preferred over evaluations with --eval-only, unless the
    training continued after it. An evaluation with --eval-only is not used if its checkpoint was
    replaced later.
    """
    evaluations, evaluated, outdated, notes = {}, {}, {}, []
    for checkpoint in ("", *_EVALUATED):
        # Use files only, since reading a pipe would wait forever.
        paths = sorted((folder / INFERENCE / checkpoint).glob(f"*/{EVALUATION}"))
        paths = list(filter(Path.is_file, paths))
        others = (path for path in paths if path.parent.name in evaluations)
        notes += filter(None, (_passed_over(path, evaluations) for path in others))
        paths = [path for path in paths if path.parent.name not in evaluations]
        weights = folder / f"{checkpoint}.pth"
        checksum = _checksum(weights) if checkpoint and paths and weights.is_file() else ""
        for path in paths:
            dataset, content = path.parent.name, _read_evaluation(path)
            if checksum and _evaluated_weights(content).get("sha256", checksum) != checksum:
                notes.append(
                    f"{path} is not used, because {weights.name} was replaced after that "
                    "evaluation: evaluate it again with train_net.py --eval-only."
                )
            elif not checkpoint and _went_on_after(content, folder):
                outdated[dataset] = content
            else:
                evaluations[dataset], evaluated[dataset] = content, checkpoint
    for dataset, content in outdated.items():
        if dataset not in evaluations:
            evaluations[dataset], evaluated[dataset] = content, ""
            notes.append(
                f"The training in {folder} continued after its evaluation on {dataset}: the "
                f"metrics were measured after {_evaluated_after(content)} of "
                f"{_iterations_done(folder)} iterations."
            )
    if not evaluations and notes:
        raise InputError(f"{folder} has no evaluation of its present checkpoints: {notes[0]}")
    if not evaluations:
        raise InputError(
            f"{folder} is not a run: it has no {INFERENCE}/DATA_SET/{EVALUATION}. Give the "
            "OUTPUT_DIR of a finished training, or evaluate its model_best.pth or model_final.pth "
            "there with train_net.py --eval-only"
        )
    return evaluations, evaluated, tuple(notes)


def _passed_over(path: Path, used: dict[str, dict]) -> str:
    """Return a note if an evaluation that is not used has other settings than the used one."""
    dataset = path.parent.name
    try:
        content = _read_evaluation(path)
    except InputError:
        return ""
    configs = content.get("config"), used[dataset].get("config")
    if not all(isinstance(config, dict) for config in configs):
        return ""
    prefixes = OF_EVALUATION + _ADDING
    own, other = (
        {key: config[key] for key in config if key.startswith(prefixes)} for config in configs
    )
    if own == other:
        return ""
    return (
        f"{path} is not used, although its settings of the evaluation differ. The page shows the "
        f"first of these that a run has: the evaluation during the training, in {INFERENCE}/"
        f"{dataset}; of model_best.pth; of model_final.pth. To show another one, move the earlier "
        "ones away."
    )


def _evaluated_weights(evaluation: dict) -> dict:
    """Return the record of the weights in an evaluation; {} if there is none."""
    weights = evaluation.get("weights")
    return weights if isinstance(weights, dict) else {}


def _evaluated_after(evaluation: dict) -> int | None:
    """Return the number of iterations before an evaluation; None if it is not recorded."""
    iteration = _evaluated_weights(evaluation).get("iteration")
    return iteration + 1 if isinstance(iteration, int) else None


def _went_on_after(evaluation: dict, folder: Path) -> bool:
    """Return True if the training in a folder continued after one of its own evaluations."""
    evaluated = _evaluated_after(evaluation)
    return evaluated is not None and evaluated < (_iterations_done(folder) or 0)


def _iterations_done(folder: Path) -> int | None:
    """Return the number of iterations by metrics.json; None if it has no line."""
    last = deque(_read_metrics(folder), maxlen=1)
    if not last:
        return None
    iteration, scalars = last[0]
    # The line of the evaluation at the end has no losses; its iteration is one after the last.
    return iteration + ("total_loss" in scalars)


def _read_metrics(folder: Path) -> Iterator[tuple[int, dict]]:
    """Yield the iteration and the scalars of each line of metrics.json."""
    path = folder / METRICS
    try:
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error}): ask for permission to read it"
        ) from error
    for line in lines:
        try:
            scalars = json.loads(line)
            iteration = int(scalars["iteration"])
        # Killed runs can leave half a line; Infinity raises OverflowError.
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        yield iteration, scalars


def _checksum(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error}): ask for permission to read it"
        ) from error


def _read_evaluation(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error}): ask for permission to read it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): write it again with train_net.py --eval-only"
        ) from error
    if problem := _problem(content):
        raise InputError(f"{path}: {problem}: write it again with train_net.py --eval-only")
    return content


def _problem(content: object) -> str:
    """Return the first problem in the content of a sem_seg_evaluation.json; "" if there is none."""
    if not isinstance(content, dict):
        return f"expected an object, found {shortened(content)}"
    names, num_images = content.get("class_names"), content.get("num_images")
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        return f"class_names: expected a list of names, found {shortened(names)}"
    if not isinstance(num_images, int):
        return f"num_images: expected a count, found {shortened(num_images)}"
    for key in ("metrics", "geometry"):
        numbers = content.get(key, {})
        if not isinstance(numbers, dict):
            return f"{key}: expected an object, found {shortened(numbers)}"
        for name, value in numbers.items():
            # A class without ground truth has null.
            if not (value is None or _is_finite(value)):
                return f"{key}: {name}: expected a number or null, found {shortened(value)}"
    for name in ("mIoU", *(f"IoU-{name}" for name in names)):
        if name not in content.get("metrics", {}):
            return f"metrics: {name} is missing"
    if _CONFUSION in content and not _is_confusion(content[_CONFUSION], len(names)):
        found = shortened(content[_CONFUSION])
        return f"{_CONFUSION}: expected {len(names)} x {len(names)} counts, found {found}"
    groups = content.get("groups", {})
    if groups != {} and not _are_groups(groups, len(names)):
        return (
            f"groups: expected the ids 0 to {len(names) - 1}, each once, in the lists "
            f"{', '.join(GROUP_NAMES)}, found {shortened(groups)}"
        )
    return ""


def _is_confusion(matrix: object, num_classes: int) -> bool:
    """Return True for a square matrix of counts, with one row for each class."""
    try:
        counts = np.array(matrix)
    except ValueError:  # rows of different lengths
        return False
    is_square = counts.shape == (num_classes, num_classes)
    return is_square and counts.dtype.kind in "iu" and counts.min() >= 0


def _are_groups(groups: object, num_classes: int) -> bool:
    """Return True if each class is in exactly one group."""
    parts = [groups.get(name) for name in GROUP_NAMES] if isinstance(groups, dict) else []
    if not (parts and all(isinstance(part, list) for part in parts)):
        return False
    ids = [class_id for part in parts for class_id in part]
    return all(isinstance(k, int) for k in ids) and sorted(ids) == list(range(num_classes))


def _is_finite(value: object) -> bool:
    """Return True for a finite number. (An integer in JSON can be too large for a float.)"""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _thinned(curve: Curve) -> Curve:
    """Return at most _MAX_POINTS points of a curve, including both ends."""
    if len(curve) <= _MAX_POINTS:
        return curve
    last = len(curve) - 1
    return [curve[round(i * last / (_MAX_POINTS - 1))] for i in range(_MAX_POINTS)]
