"""Find the settings in which compared runs differ, and decide if the comparison is fair.

The settings of the methods may differ. Other settings that change the metrics, such as the length
of the training, must be equal. Otherwise the comparison is not fair.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from sar.config import leaves, load_config, lookup
from sar.data.units import Units
from sar.errors import InputError, listed
from sar.files.run_folder import CONFIG, earlier_configs
from sar.report.runs import OF_EVALUATION, Run

ITERATIONS = "iterations done"
CHECKPOINT = "evaluated checkpoint"
TRAINING_LABELS = "training labels"
EVALUATION_LABELS = "evaluation labels"
# Prefix for keys of the evaluation that the training also has.
EVALUATION = "evaluation: "
# Text of an empty value.
_NONE = "none"
# Keys that say nothing about a run, or differ in every run.
_LEFT_OUT = ("OUTPUT_DIR", "SEED", "VERSION")
_METHOD = "the method"
# Prefixes of keys that trainings and evaluations use.
_OF_BOTH = (
    "DATASETS.FOLDER",
    "INPUT.FORMAT",
    "INPUT.BLACK_POINT",
    "INPUT.WHITE_POINT",
    "INPUT.POINTS.VOXEL_SIZE",
    "INPUT.POINTS.FEATURES",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
)
# Kind of a setting, by the prefix of its key; the first match counts. Other settings are shown, but
# do not make a comparison unfair.
_KINDS = {
    "DATASETS.CLASS_FREQUENCY": _METHOD,
    "DATALOADER.SAMPLER_TRAIN": _METHOD,
    "DATALOADER.REPEAT_THRESHOLD": _METHOD,
    "INPUT.CROP.CLASS_UNIFORM": _METHOD,
    "INPUT.POINTS.CLASS_UNIFORM": _METHOD,
    "MODEL.REGULARIZERS": _METHOD,
    "MODEL.TAP": _METHOD,
    "MODEL.SEMANTIC_ANCHOR": _METHOD,
    "MODEL.CENTER_COLLAPSE": _METHOD,
    "MODEL.PROTOTYPE": _METHOD,  # and MODEL.PROTOTYPE_CONTRAST
    "MODEL.CENTER_LOSS": _METHOD,
    "MODEL.CLASS_AWARE": _METHOD,
    "MODEL.LOSS": _METHOD,
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": _METHOD,
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": _METHOD,
    "MODEL.META_ARCHITECTURE": _METHOD,
    "MODEL.CLASSIFIER": _METHOD,
    "MODEL.DEVICE": "",
    "MODEL.CHANNELS_LAST": "",
    "MODEL.SPARSE_UNET.BACKEND": "",
    "SOLVER.CHECKPOINT": "",
    "DATASETS.CHECK": "",
    # All compared evaluations use the same data set.
    "DATASETS.TEST": "",
    ITERATIONS: "length",
    "SOLVER.MAX_ITER": "length",
    "SOLVER.IMS_PER_BATCH": "batch size",
    "DATASETS": "data",
    TRAINING_LABELS: "data",
    EVALUATION_LABELS: "data",
    "INPUT": "input size or augmentation",
    "SOLVER": "schedule or optimizer",
    "MODEL": "backbone, head or weights",
    "TEST.MODE": "evaluation",
    "TEST.AUG": "evaluation",
    "TEST.CROP": "evaluation",
    "TEST.OBJECT_IOU": "evaluation",
    "TEST.PRECISE_BN": "evaluation",
    CHECKPOINT: "evaluation",
    EVALUATION: "evaluation",
}


def compare_settings(runs: Sequence[Run], names: Sequence[str], dataset: str) -> dict:
    """Return the differences between the runs, in types that JSON can hold.

    Args:
        runs: at least one.
        names: names of the runs, for messages.
        dataset: the data set whose evaluations are compared.

    Returns:
        "rows": for each setting that differs, its "key", its "kind", "is_unfair", and "values" with
        a text for each method. "unfair": a sentence that says why the comparison is not fair, or
        "". "notes": sentences about unknown settings and evaluations that are not used.

    Raises:
        InputError: metrics.json or class_frequency.json of a run cannot be read.
    """
    notes, of_runs = [note for run in runs for note in run.notes], []
    for run, name in zip(runs, names, strict=True):
        try:
            settings = _settings(run, run.folder / CONFIG)
            notes += _changes_of_resumes(run, name, settings)
        except InputError as error:
            notes.append(f"The settings of {name} are not known: {error}")
            settings = {}
        settings |= _settings_of_evaluation(run.evaluations[dataset], settings)
        iterations = run.iterations(dataset)
        settings[ITERATIONS] = None if iterations is None else str(iterations)
        settings[CHECKPOINT] = "model_best" if run.is_of_best(dataset) else "the last one"
        settings[TRAINING_LABELS] = _training_labels(run, settings, run.units(dataset))
        settings[EVALUATION_LABELS] = _evaluation_labels(run, dataset)
        of_runs.append(settings)
    methods = list(dict.fromkeys(run.method for run in runs))
    rows = []
    for key in dict.fromkeys(key for settings in of_runs for key in settings):
        known = {settings[key] for settings in of_runs if settings.get(key) is not None}
        trained = key.removeprefix(EVALUATION)
        is_repeated = trained != key and all(s.get(key) == s.get(trained) for s in of_runs)
        if len(known) < 2 or is_repeated:
            continue
        kind = _kind(key)
        values = [
            _joined(s.get(key) for r, s in zip(runs, of_runs, strict=True) if r.method == method)
            for method in methods
        ]
        is_unfair = kind not in ("", _METHOD)
        rows.append({"key": key, "kind": kind, "is_unfair": is_unfair, "values": values})
    rows.sort(key=lambda row: not row["is_unfair"])
    of_methods = [row["key"] for row in rows if row["kind"] == _METHOD]
    for method in methods:
        own = [s for r, s in zip(runs, of_runs, strict=True) if r.method == method]
        mixed = [key for key in of_methods if len({settings.get(key) for settings in own}) > 1]
        if mixed:
            notes.append(
                f"The runs called {method} differ in {listed(mixed, 3)}, but count as seeds of one "
                "method: give each a name, NAME=FOLDER."
            )
    for key, fingerprints in (
        (TRAINING_LABELS, map(_fingerprint_of_training, runs, of_runs)),
        (EVALUATION_LABELS, (run.label_fingerprint(dataset) for run in runs)),
    ):
        if len(set(filter(None, fingerprints))) > 1 and key not in [row["key"] for row in rows]:
            notes.append(
                f"The comparison may not be fair: the files of the {key} differ in their names, "
                "sizes or times of change, although no difference in their counts is known. Check "
                "that all runs used the same labels."
            )
    return {"rows": rows, "unfair": _unfair(rows), "notes": notes}


def _changes_of_resumes(run: Run, name: str, settings: dict[str, str | None]) -> list[str]:
    """Return a note for each --resume that changed settings of the training."""
    notes = []
    for iteration, path in earlier_configs(run.folder):
        try:
            earlier = _settings(run, path)
        except InputError as error:
            notes.append(
                f"The settings of {name} until iteration {iteration} are not known: {error}"
            )
            continue
        keys = [key for key in earlier if earlier[key] != settings.get(key)]
        keys = [key for key in keys if _kind(key) not in ("", "length", "evaluation")]
        if keys:
            notes.append(
                f"The comparison may not be fair: until iteration {iteration}, {name} was trained "
                f"with other settings ({listed(keys, 3)}; {path.name})."
            )
    return notes


def _settings(run: Run, path: Path) -> dict[str, str | None]:
    """Return the values of a config of a run, by dotted key.

    Paths below the OUTPUT_DIR of the run start with the word OUTPUT_DIR.
    """
    if not path.is_file():
        raise InputError(f"file not found: {path}")
    cfg = load_config(str(path))
    settings = {}
    for key in leaves(cfg):
        value = lookup(cfg, key)
        if isinstance(value, str):
            for folder in (str(run.folder), cfg.OUTPUT_DIR):
                if folder and value.startswith(os.path.join(folder, "")):
                    value = os.path.join("OUTPUT_DIR", os.path.relpath(value, folder))
        if key not in _LEFT_OUT:
            settings[key] = _text(key, value)
    return settings


def _settings_of_evaluation(
    evaluation: dict, trained: dict[str, str | None]
) -> dict[str, str | None]:
    """Return the recorded settings of an evaluation that change its metrics, by key.

    Args:
        evaluation: content of sem_seg_evaluation.json.
        trained: the settings of the training, used if the evaluation has recorded none.
    """
    recorded = evaluation.get("config")
    # Keys with their default values are not recorded.
    defaults, settings = load_config(), {}
    for key in leaves(defaults):
        if not key.startswith((*OF_EVALUATION, *_OF_BOTH)):
            continue
        value = trained.get(key)
        if isinstance(recorded, dict):
            value = _text(key, recorded.get(key, lookup(defaults, key)))
        settings[f"{EVALUATION * key.startswith(_OF_BOTH)}{key}"] = value
    return settings


def _training_labels(run: Run, settings: dict[str, str | None], units: Units) -> str | None:
    """Return the counts of the training labels of a run as a text; None if they are unknown."""
    frequency = run.class_frequency()
    given = settings.get("DATASETS.CLASS_FREQUENCY") or _NONE
    if frequency is None or not (given == _NONE or given.startswith("OUTPUT_DIR")):
        return None  # a given file may have the counts of other data
    return _counts(units, frequency.num_images, frequency.pixels, frequency.images)


def _evaluation_labels(run: Run, dataset: str) -> str | None:
    """Return the counts of the evaluation labels as a text; None if they are not recorded."""
    pixels = run.ground_truth(dataset)
    if pixels is None:
        return None
    return _counts(run.units(dataset), run.evaluations[dataset]["num_images"], pixels)


def _counts(units: Units, num_images: int, pixels: Sequence[int], *more: Sequence[int]) -> str:
    checksum = zlib.crc32(repr((list(pixels), *map(list, more))).encode())
    return (
        f"{num_images} {units.sample}s, {sum(pixels)} {units.part}s (counts of the classes: "
        f"{checksum:08x})"
    )


def _fingerprint_of_training(run: Run, settings: dict[str, str | None]) -> str:
    return run.class_frequency().fingerprint if settings[TRAINING_LABELS] else ""


def _text(key: str, value: object) -> str:
    """Return a value in words: names joined by commas, and "none" for an empty value."""
    if key == "DATASETS.FOLDER" and value:
        value = os.path.realpath(os.path.expanduser(value))
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return _NONE if value in ("", None) else str(value)


def _kind(key: str) -> str:
    return next((kind for start, kind in _KINDS.items() if key.startswith(start)), "")


def _joined(values) -> str:
    return "; ".join(dict.fromkeys("not known" if value is None else value for value in values))


def _unfair(rows: Sequence[dict]) -> str:
    keys: dict[str, list[str]] = {}
    for row in rows:
        if row["is_unfair"]:
            keys.setdefault(row["kind"], []).append(row["key"])
    if not keys:
        return ""
    reasons = "; ".join(f"{kind} ({listed(found, 3)})" for kind, found in keys.items())
    return f"Not a fair comparison: the runs differ in more than their methods: {reasons}."
