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
from sar.files.run_folder import EVALUATION, INFERENCE

from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from detectron2.utils.file_io import PathManager


def write_results(folder: Path, content: dict) -> None:
    """Write `sem_seg_evaluation.json`. Earlier results of other data or settings are renamed.

    Args:
        folder: folder of the file.
        content: in types that JSON can hold, without NaN. It may include `describe_run`.
    """
    path = folder / EVALUATION
    text = json.dumps(content, allow_nan=False)
    _keep_other(path, content)
    write_atomically(path, text + "\n")


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


def _keep_other(path: Path, content: dict) -> None:
    """Rename earlier results of the same checkpoint if they are for other data or settings.

    Results of a training in progress are not kept: new results replace them.
    """
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    if "file" not in before.get("weights", {}):
        return
    if all(before.get(key) == content.get(key) for key in ("config", "data")):
        return
    names = (f"{path.stem}-{number}{path.suffix}" for number in count(2))
    path.rename(next(p for p in map(path.with_name, names) if not p.exists()))


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
