"""The commands that train on a data set, as a user types them."""

import re
import shlex
from collections.abc import Sequence

from sar import cli
from sar.advice.item import format_command
from sar.config_file import locate
from sar.data.datasets.folder import missing_parts, parts_of
from sar.study.comparison import DEVICES, INSTEAD, read_methods
from sar.study.matrix import ITERATIONS

from detectron2.data import DatasetCatalog

_METHODS = "configs/compare.yaml"  # what tools/compare.py trains by default


def keys_of_data(name: str, folder: str | None) -> dict[str, str]:
    """Return the keys that name the data of a training, and of its evaluation."""
    if folder is not None:
        missing = len(missing_parts(folder, "val"))
        is_incomplete = 0 < missing < len(parts_of(folder))  # such as images without labels
        return {"DATASETS.FOLDER": folder} | ({"DATASETS.TEST": "()"} if is_incomplete else {})
    val = re.sub(r"train(?!.*train)", "val", name)
    has_val = val != name and val in DatasetCatalog
    return {"DATASETS.TRAIN": name, "DATASETS.TEST": val if has_val else "()"}


def training_command(config_file: str, keys: dict[str, str], imports: Sequence[str] = ()) -> str:
    """Return a command of train_net.py, with an --import of each of `imports`."""
    call = cli.call_of("train_net.py") + _import_options(imports)
    return format_command(f"{call} --config-file {shlex.quote(config_file)}", keys)


def comparing_command(
    folder: str, config_file: str, keys: dict[str, str], imports: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """Return a command of tools/compare.py, and the keys that it lacks.

    It lacks keys that compare.py refuses: those that a method sets, since each method has its own
    value, and a MODEL.DEVICE that it does not use. Keys that have an option become options.
    """
    options = {"--folder": folder, "--config-file": config_file}
    if ITERATIONS in keys:
        options["--iterations"] = keys[ITERATIONS]
    of_methods = {key for settings in read_methods(locate(_METHODS)).values() for key in settings}
    lacking = sorted(of_methods & keys.keys())
    if keys.get("MODEL.DEVICE", DEVICES[0]) not in DEVICES:
        lacking.append("MODEL.DEVICE")
    others = {key: value for key, value in keys.items() if key not in (*INSTEAD, *lacking)}
    call = cli.call_of("tools/compare.py") + _import_options(imports)
    return format_command(call, options | others), lacking


def _import_options(imports: Sequence[str]) -> str:
    return "".join(f" --import {shlex.quote(module)}" for module in imports)
