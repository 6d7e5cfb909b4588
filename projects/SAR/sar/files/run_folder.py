"""Name the files in OUTPUT_DIR, the folder of a run, and keep the files of earlier runs in it.

run.json                        marks the folder: when, where and by what command the run started
config.yaml                     the config of the training
config-until-0000500.yaml       the config of its first 500 iterations, if --resume changed it
log.txt, log.txt.rank1, ...     the log of each process
metrics.json                    a line of scalars every few iterations
events.out.tfevents.*           the same, and pictures, for TensorBoard
class_frequency.json            how frequent each class is in the training set
model_*.pth                     checkpoints, see `sar.checkpoints.checkpointer`
model_inference.pth             weights, classes and config for predictions, written at the end
last_checkpoint                 the name of the checkpoint that --resume takes
inference/DATA_SET/             evaluations by the training itself, of its latest weights:
    sem_seg_evaluation.json         metrics, confusion matrix, and what was evaluated
    sem_seg_predictions.json        predictions, with TEST.SAVE_JSON
inference/MODEL/                evaluation of one checkpoint by --eval-only:
    run.json, log.txt               as above
    class_frequency.json            as above
    DATA_SET/                       as above; results of other settings are numbered: ...-2.json
previous/, previous-2/, ...     all files of the earlier runs in this folder, the oldest first
.sar-run.lock                   held by the training that writes here

This module does not import PyTorch or detectron2.
"""

import datetime
import json
import os
import re
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from sar.errors import InputError, listed
from sar.files.atomic import remove_leftovers, write_atomically

RUN = "run.json"
CONFIG = "config.yaml"
LOG = "log.txt"
METRICS = "metrics.json"
CLASS_FREQUENCY = "class_frequency.json"
LAST_CHECKPOINT = "last_checkpoint"
INFERENCE_MODEL = "model_inference.pth"
INFERENCE = "inference"
EVALUATION = "sem_seg_evaluation.json"
PREDICTIONS = "sem_seg_predictions.json"
LOCK = ".sar-run.lock"

CHECKPOINT = re.compile(r"model_(?P<iteration>\d{7,}|final|best)\.pth")

_PROJECT = "detectron2-sar"
_FILES = (CONFIG, LOG, METRICS, CLASS_FREQUENCY, LAST_CHECKPOINT, INFERENCE_MODEL)
_EARLIER_CONFIG = re.compile(r"config-until-(?P<end>\d{7,})(-\d+)?\.yaml")
_MORE_FILES = re.compile(
    rf"{re.escape(LOG)}\.rank\d+|events\.out\.tfevents\..*|"
    rf"{_EARLIER_CONFIG.pattern}|{CHECKPOINT.pattern}"
)
# In inference/, of this project's and of detectron2's evaluators.
_RESULTS = re.compile(
    rf"{RUN}|{re.escape(LOG)}(\.rank\d+)?|{CLASS_FREQUENCY}|"
    r"\.?(sem_seg|coco|instances|panoptic|lvis|box|predictions)[\w.-]*\.(jsonl?|pth|pkl)"
)


def check_is_free(folder: str | os.PathLike) -> None:
    """Raise InputError if a training in `folder` would replace files that no run of ours wrote.

    A folder with our run.json holds an earlier run, which `set_aside` keeps. Files with other names
    are allowed, because a training never changes them.
    """
    folder = Path(folder)
    for name in (*_FILES, RUN, INFERENCE):
        path = folder / name
        expected = "folder" if name == INFERENCE else "file"
        if os.path.lexists(path) and not (path.is_dir() if name == INFERENCE else path.is_file()):
            raise InputError(
                f"OUTPUT_DIR {folder}: {name} is not a {expected}, as in the folder of a run. Move "
                "it away, or choose another OUTPUT_DIR."
            )
        if path.is_symlink():
            raise InputError(
                f"OUTPUT_DIR {folder}: {name} is a link to {os.path.realpath(path)}. Remove the "
                "link, or choose another OUTPUT_DIR."
            )
    if is_run(folder):
        return
    foreign = [path.name for path in _files_of_run(folder)]
    if (folder / RUN).exists():
        foreign.insert(0, RUN)
    if foreign:
        raise InputError(
            f"OUTPUT_DIR {folder} has files that a training would replace, but no training of this "
            f"project wrote them: {listed(sorted(foreign))}. Choose another OUTPUT_DIR, or move "
            "these files away. To start from a checkpoint among them, give it as MODEL.WEIGHTS."
        )


def check_is_evaluation(output_dir: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Raise InputError if --eval-only would write into a folder that no evaluation of ours made.

    Args:
        folder: of the results of a checkpoint, below `output_dir`/inference.
    """
    folder = Path(folder)
    for path in (Path(output_dir, INFERENCE), folder):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise InputError(
                f"OUTPUT_DIR {output_dir}: {path} is a link or a file, but results of evaluations "
                "are written into a folder of that name. Move it away, or choose another "
                "OUTPUT_DIR."
            )
    if folder.is_dir() and any(folder.iterdir()) and not is_run(folder):
        raise InputError(
            f"OUTPUT_DIR {output_dir}: {folder} has files that no evaluation of this project "
            "wrote. Move them away, or choose another OUTPUT_DIR."
        )


def is_run(folder: str | os.PathLike) -> bool:
    """Return if a training of this project has started in `folder`."""
    return bool(_run_id(Path(folder)))


def mark(folder: str | os.PathLike) -> None:
    """Mark `folder` as the folder of a training or evaluation that starts now.

    A resumed run keeps its mark.
    """
    if is_run(folder):
        return
    content = {
        "project": _PROJECT,
        "id": uuid.uuid4().hex,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "command": sys.argv,
    }
    write_atomically(Path(folder, RUN), json.dumps(content, indent=2) + "\n")


def write_config(folder: str | os.PathLike, config: str, iteration: int) -> None:
    """Write config.yaml. An earlier, different one stays under a name with the iteration."""
    path = Path(folder, CONFIG)
    if path.is_file():
        if path.read_text(errors="replace") == config:
            return
        names = (
            f"config-until-{iteration:07d}{f'-{number}' * (number > 1)}.yaml" for number in count(1)
        )
        path.rename(next(p for p in map(path.with_name, names) if not os.path.lexists(p)))
    write_atomically(path, config)


def earlier_configs(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """Return the configs that --resume changed: their last iterations and files, in order."""
    found = ((_EARLIER_CONFIG.fullmatch(path.name), path) for path in Path(folder).iterdir())
    return sorted((int(match["end"]), path) for match, path in found if match)


def set_aside(folder: str | os.PathLike) -> Path | None:
    """Move all files of the run in `folder` to a new folder inside it.

    If the process is killed meanwhile, nothing is lost: the next call moves the rest to the same
    folder.

    Returns:
        The new folder, or None if `folder` holds no run.

    Raises:
        InputError: a file cannot be moved.
    """
    folder = Path(folder)
    run_id = _run_id(folder)
    if not run_id:
        return None
    begun = (path for path in previous_runs(folder) if _run_id(path) == run_id)
    target = next(begun, None) or next(filter(_is_free, _previous_names(folder)))
    try:
        target.mkdir(exist_ok=True)
        write_atomically(target / RUN, (folder / RUN).read_bytes())
        for path in _files_of_run(folder):
            path.replace(target / path.name)
        for path in _results(folder):
            (target / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            path.replace(target / path.relative_to(folder))
        _remove_empty_folders(folder / INFERENCE)
        (folder / RUN).unlink()  # the copy is in `target`
    except OSError as error:
        raise InputError(
            f"OUTPUT_DIR {folder}: the files of its earlier run cannot be moved to {target} "
            f"({error.strerror}). Choose another OUTPUT_DIR."
        ) from error
    return target


def previous_runs(folder: str | os.PathLike) -> list[Path]:
    """Return the folders of the runs that were set aside in `folder`, the oldest first."""
    names = _previous_names(Path(folder))
    found = []
    for path in names:
        if not os.path.lexists(path):
            return found
        if is_run(path):
            found.append(path)
    return found


def _previous_names(folder: Path) -> Iterator[Path]:
    yield folder / "previous"
    yield from (folder / f"previous-{number}" for number in count(2))


def _is_free(folder: Path) -> bool:
    """Return if a folder is absent, or holds only leftovers of a process killed in `set_aside`."""
    if not os.path.lexists(folder):
        return True
    if folder.is_symlink() or not folder.is_dir():
        return False
    remove_leftovers(folder)
    return not any(folder.iterdir())


def _files_of_run(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and (path.name in _FILES or _MORE_FILES.fullmatch(path.name))
    ]


def _results(folder: Path) -> list[Path]:
    """Return the results of evaluations in `folder`. Links are not followed."""
    found = []
    for directory, _, names in os.walk(folder / INFERENCE):
        found += [Path(directory, name) for name in names if _RESULTS.fullmatch(name)]
    return sorted(found)


def _remove_empty_folders(folder: Path) -> None:
    for directory, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty
            os.rmdir(directory)


def _run_id(folder: Path) -> str:
    """Return the id in our run.json, or ""."""
    path = folder / RUN
    try:
        content = json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return ""
    if not isinstance(content, dict) or content.get("project") != _PROJECT:
        return ""
    return str(content.get("id", ""))
