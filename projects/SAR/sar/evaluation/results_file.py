"""Write the results of an evaluation to a file, with what was evaluated."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path

from sar.config import changed_keys, lookup
from sar.data.class_frequency import fingerprint_of
from sar.data.datasets import load_dataset
from sar.errors import InputError
from sar.files.atomic import sha256, write_atomically
from sar.files.run_folder import EVALUATION, INFERENCE, PREDICTIONS

from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from detectron2.utils.file_io import PathManager

# Prefixes of keys that change no number of an evaluation. Other keys may, also those of users.
_WITHOUT_EFFECT = (
    "OUTPUT_DIR",
    "SEED",
    "MODEL.WEIGHTS",  # each checkpoint has its own folder
    "MODEL.DEVICE",
    "DATALOADER.",
    "SOLVER.",
    "TEST.BEST_METRIC",
    "TEST.EVAL_PERIOD",
    "TEST.EXPECTED_RESULTS",
    "TEST.PICTURES",
    "TEST.SAVE_JSON",
)


def write_results(folder: Path, content: dict) -> None:
    """Write `sem_seg_evaluation.json`.

    Args:
        folder: folder of the file.
        content: in types that JSON can hold, without NaN. It may include `describe_run`.
    """
    write_atomically(folder / EVALUATION, json.dumps(content, allow_nan=False) + "\n")


def describe_run(cfg: CfgNode, weights_file: str, dataset_name: str) -> dict:
    """Return the weights, config and data of an evaluation, in types that JSON can hold.

    Args:
        cfg: config of the run. Keys that differ from the defaults are recorded.
        weights_file: the evaluated checkpoint; "" for the weights of a training in progress.
        dataset_name: the evaluated data set.
    """
    if weights_file:
        file = weights_file if "://" in weights_file else os.path.abspath(weights_file)
        weights = {"file": file, "sha256": _checksum(weights_file)}
    else:
        weights = {"iteration": _last_iteration(cfg)}
    description = {"weights": weights, "config": _settings(cfg)}
    with suppress(InputError, OSError):
        files = [record["sem_seg_file_name"] for record in load_dataset(dataset_name)]
        description["data"] = {"fingerprint": fingerprint_of(files)}
    return description


def keep_other_results(folder: Path, run: dict) -> None:
    """Rename earlier results in `folder` if they are for other data or settings.

    Metrics and predictions get the same number. Results of a training in progress are not kept: new
    results replace them.

    Args:
        run: from `describe_run`, of the results that will be written.
    """
    try:
        before = json.loads((folder / EVALUATION).read_text())
    except (OSError, ValueError):
        return
    if "file" not in before.get("weights", {}):
        return
    if before.get("data") == run.get("data") and _effective(before) == _effective(run):
        return
    paths = [folder / EVALUATION, folder / PREDICTIONS]
    for number in count(2):
        targets = [path.with_stem(f"{path.stem}-{number}") for path in paths]
        if not any(map(os.path.lexists, targets)):
            break
    for path, target in zip(paths, targets, strict=True):
        with suppress(FileNotFoundError):  # without TEST.SAVE_JSON, there are no predictions
            path.rename(target)


def _effective(run: dict) -> dict:
    """Return the recorded settings that may change the numbers of an evaluation."""
    settings = (run.get("config") or {}).items()
    return {key: value for key, value in settings if not key.startswith(_WITHOUT_EFFECT)}


def without_nan(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics with None instead of NaN and infinity, which JSON does not have."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def evaluation_folder(output_dir: str | os.PathLike, weights_file: str) -> Path:
    """Return the folder of a checkpoint's results with --eval-only, below `output_dir`/inference.

    The folder has the name of the checkpoint. If the checkpoint is not in `output_dir`, a part of
    its checksum is added, since many checkpoints have the name model_final.pth.
    """
    path = Path(weights_file)
    name = path.stem if path.suffix in (".pth", ".pkl") else path.name
    if os.path.realpath(os.path.dirname(weights_file)) != os.path.realpath(output_dir):
        name = f"{name}-{_checksum(weights_file)[:8]}"
    return Path(output_dir, INFERENCE, name)


def _checksum(weights_file: str) -> str:
    return sha256(PathManager.get_local_path(weights_file))


def _last_iteration(cfg: CfgNode) -> int | None:
    """Return the last finished iteration, as in names of checkpoints; None outside a training."""
    try:
        return min(get_event_storage().iter, cfg.SOLVER.MAX_ITER - 1)
    except AssertionError:
        return None


def _settings(cfg: CfgNode) -> dict:
    """Return the keys of a config that differ from the defaults, with their values."""
    return {key: _plain(lookup(cfg, key)) for key in changed_keys(cfg)}


def _plain(value: object) -> object:
    """Return a value for JSON; as text if JSON cannot hold it, such as infinity."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return repr(value)
