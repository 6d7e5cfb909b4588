"""How the runs of a comparison were trained: the settings that differ, and whether it is fair.

A comparison is about methods, so their settings may differ. If anything else differs that changes
the metrics, such as the length of the training, the comparison says more than the method.
"""

import os
from collections.abc import Sequence

from sar.config import leaves, load_config, lookup
from sar.errors import InputError, listed
from sar.output_dir import CONFIG

from .runs import Run

ITERATIONS = "iterations done"
CHECKPOINT = "evaluated checkpoint"
# Say nothing about a run, or differ in every run.
_LEFT_OUT = ("OUTPUT_DIR", "SEED", "VERSION")
_METHOD = "the method"
# What a setting belongs to, by the start of its key; the first match counts. Settings that are not
# listed are shown, and do not make a comparison unfair.
_KINDS = {
    "DATASETS.CLASS_FREQUENCY": _METHOD,
    "DATALOADER.SAMPLER_TRAIN": _METHOD,
    "DATALOADER.REPEAT_THRESHOLD": _METHOD,
    "MODEL.REGULARIZERS": _METHOD,
    "MODEL.SEMANTIC_ANCHOR": _METHOD,
    "MODEL.CENTER_COLLAPSE": _METHOD,
    "MODEL.LOSS": _METHOD,
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": _METHOD,
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": _METHOD,
    "MODEL.META_ARCHITECTURE": _METHOD,
    "MODEL.CLASSIFIER": _METHOD,
    "MODEL.DEVICE": "",
    "MODEL.CHANNELS_LAST": "",
    "SOLVER.CHECKPOINT": "",
    "DATASETS.CHECK": "",
    ITERATIONS: "length",
    "SOLVER.MAX_ITER": "length",
    "SOLVER.IMS_PER_BATCH": "batch size",
    "DATASETS": "data",
    "INPUT": "input size or augmentation",
    "SOLVER": "schedule or optimizer",
    "MODEL": "backbone, head or weights",
    "TEST.MODE": "evaluation",
    "TEST.AUG": "evaluation",
    "TEST.CROP": "evaluation",
    "TEST.PRECISE_BN": "evaluation",
    CHECKPOINT: "evaluation",
}


def compare_settings(runs: Sequence[Run], names: Sequence[str], dataset: str) -> dict:
    """Return what differs between the runs, as JSON can hold it.

    Args:
        runs: at least one.
        names: of the runs, for messages.
        dataset: the data set whose evaluations are compared.

    Returns:
        "rows": of each setting that differs, its "key", its "kind", "is_unfair", and "values", a
        text for each method; "unfair": the sentence that says why the comparison is not fair, or
        ""; "notes": sentences about what is not known.
    """
    notes, of_runs = [], []
    for run, name in zip(runs, names, strict=True):
        try:
            settings = _settings(run)
        except InputError as error:
            notes.append(f"The settings of {name} are not known: {error}")
            settings = {}
        iterations = run.iterations()
        settings[ITERATIONS] = None if iterations is None else str(iterations)
        settings[CHECKPOINT] = "model_best" if run.is_of_best(dataset) else "the last one"
        of_runs.append(settings)
    methods = list(dict.fromkeys(run.method for run in runs))
    rows = []
    for key in dict.fromkeys(key for settings in of_runs for key in settings):
        known = {settings[key] for settings in of_runs if settings.get(key) is not None}
        if len(known) < 2:
            continue
        kind = _kind(key)
        values = [
            _joined(s.get(key) for r, s in zip(runs, of_runs, strict=True) if r.method == method)
            for method in methods
        ]
        is_unfair = kind not in ("", _METHOD)
        rows.append({"key": key, "kind": kind, "is_unfair": is_unfair, "values": values})
    rows.sort(key=lambda row: not row["is_unfair"])
    return {"rows": rows, "unfair": _unfair(rows), "notes": notes}


def _settings(run: Run) -> dict[str, str | None]:
    """The values of a run's config.yaml by dotted key; its own OUTPUT_DIR is called so in paths."""
    path = run.folder / CONFIG
    if not path.is_file():
        raise InputError(f"there is no {path}")
    cfg = load_config(str(path))
    settings = {}
    for key in leaves(cfg):
        value = lookup(cfg, key)
        if isinstance(value, str):
            for folder in (str(run.folder), cfg.OUTPUT_DIR):
                if folder and value.startswith(os.path.join(folder, "")):
                    value = os.path.join("OUTPUT_DIR", os.path.relpath(value, folder))
        if key == "DATASETS.FOLDER" and value:
            value = os.path.realpath(os.path.expanduser(value))
        if key not in _LEFT_OUT:
            settings[key] = str(list(value) if isinstance(value, tuple) else value) or '""'
    return settings


def _kind(key: str) -> str:
    return next((kind for start, kind in _KINDS.items() if key.startswith(start)), "")


def _joined(values) -> str:
    return ", ".join(dict.fromkeys("not known" if value is None else value for value in values))


def _unfair(rows: Sequence[dict]) -> str:
    keys: dict[str, list[str]] = {}
    for row in rows:
        if row["is_unfair"]:
            keys.setdefault(row["kind"], []).append(row["key"])
    if not keys:
        return ""
    reasons = "; ".join(f"{kind} ({listed(found, 3)})" for kind, found in keys.items())
    return f"Not a fair comparison: the runs differ in more than their methods: {reasons}."
