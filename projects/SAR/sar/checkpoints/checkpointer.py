"""Checkpoints that are written whole, and read with errors that say what does not fit."""

import math
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sar.checkpoints.array_pickle import load_arrays
from sar.data.datasets import metadata_of
from sar.errors import InputError, dimensions, listed
from sar.files.atomic import atomic_path, write_atomically
from sar.files.disk import disk_error
from sar.files.run_folder import CHECKPOINT, LAST_CHECKPOINT, previous_runs
from sar.visualization import class_colors

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

# First parts of the names of what inference does not use.
TRAINING_ONLY = ("regularizers.", "loss.", "auxiliary_head.")

_IS_FOLDER = 0x10  # of a zip's entry


@dataclass(frozen=True)
class Classes:
    """The classes that a model predicts, as they are saved with its weights.

    Attributes:
        names: K names, in the order of the ids.
        colors: K colours (r, g, b), 0 to 255.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    @classmethod
    def of_dataset(cls, name: str) -> "Classes":
        """The classes of a registered data set.

        Raises:
            InputError: the name is not registered, or its data set has no classes.
        """
        metadata = metadata_of(name)
        colors = class_colors(metadata).tolist()
        return cls(tuple(metadata.stuff_classes), tuple(map(tuple, colors)))

    @classmethod
    def of_first_known(cls, names: Iterable[str]) -> "Classes | None":
        """The classes of the first of some data sets that is known here; None if none is."""
        for name in names:
            try:
                if name in DatasetCatalog and MetadataCatalog.get(name).get("stuff_classes"):
                    return cls.of_dataset(name)
            except InputError:  # they are in a file of the data set, which is not here
                continue
        return None

    @classmethod
    def from_checkpoint(cls, content: dict) -> "Classes | None":
        """The classes in the content of a checkpoint; None if it has none, as older ones have."""
        found = content.get("classes")
        names = found.get("names") if isinstance(found, dict) else None
        colors = found.get("colors") if isinstance(found, dict) else None
        if not (_are(names, str) and _are(colors, (list, tuple)) and len(names) == len(colors)):
            return None
        if not all(len(c) == 3 and _are(c, int) and 0 <= min(c) <= max(c) <= 255 for c in colors):
            return None
        return cls(tuple(names), tuple(map(tuple, colors)))

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "Classes | None":
        """The classes in a checkpoint, without its weights; None if there are none.

        Raises:
            InputError: the file is missing, broken or refused.
        """
        if not str(path).endswith(".pth"):
            return None
        try:
            return cls.from_checkpoint(_load_tensors(path, mmap=True))
        except Exception as error:  # a broken file fails in any way
            raise InputError(
                f"checkpoint {path} cannot be loaded (missing, truncated, or not a checkpoint): "
                f"{_first_sentence(error)}"
            ) from error


def _are(values: object, kind: type | tuple[type, ...]) -> bool:
    is_list = isinstance(values, (list, tuple)) and bool(values)
    return is_list and all(isinstance(value, kind) for value in values)


class Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer, with atomic writes, clear errors, and a way past broken files.

    Only the main process writes; all processes load the same file. A training leaves in its folder:

    - `model_0000499.pth`, ...: its last states, named by the last iteration that is done;
    - `model_final.pth`: its end, and `model_best.pth`: where it was best by a metric;
    - `last_checkpoint`: the name of the last of them, except model_best.pth. A crash at any time
      leaves it naming a whole file.

    Args:
        model, save_dir, checkpointables: as DetectionCheckpointer.
        skip_mismatched: load what fits from a checkpoint of other shapes, such as another number
            of classes, instead of refusing it.
        require_all: refuse a checkpoint that leaves a part of the model at its random
            initialization; except what inference does not use, regularizers and the loss.
        kept: how many numbered checkpoints `save_iteration` leaves there; 0 for all.
        classes: of the data set; saved with the weights. With `require_all`, and where a training
            is resumed, a checkpoint of other classes is refused. None: unknown, not checked.
    """

    def __init__(
        self,
        model,
        save_dir="",
        *,
        skip_mismatched=False,
        require_all=False,
        kept=0,
        classes: Classes | None = None,
        **checkpointables,
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.skip_mismatched = skip_mismatched
        self.require_all = require_all
        self.kept = kept
        self.classes = classes
        self._needs_classes = require_all
        self._best: dict | None = None  # "metric" and "value" of model_best.pth

    def start_run(self, weights: str, *, resume: bool) -> bool:
        """Load what a training starts from; every process has to call it. Changes no file.

        Args:
            weights: what a new training starts from, "" for its random initialization.
            resume: go on from the last checkpoint, with the state of all checkpointables, if
                there is one. One that is broken is passed over, with a warning.

        Returns:
            whether there was one.

        Raises:
            InputError: as `load`; all checkpoints are broken; a process cannot see the file.
        """
        newest = self._find_newest() if resume else ""
        if newest:
            self._needs_classes = True
            self.load(newest)
            self._best = self._read_best()
            return True
        self.load(self._find_weights(weights), checkpointables=[])
        return False

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """As DetectionCheckpointer, past broken files as in `start_run`.

        In what it returns, "file" is the file that was loaded, or "", and "is_resumed" says whether
        it is the last checkpoint of OUTPUT_DIR.
        """
        newest = self._find_newest() if resume else ""
        if newest:
            self._needs_classes = True
            return {**self.load(newest), "file": newest, "is_resumed": True}
        path = self._find_weights(path)
        return {**self.load(path, checkpointables=[]), "file": path, "is_resumed": False}

    def save(self, name: str, *, is_last: bool = True, **kwargs) -> None:
        """As DetectionCheckpointer, through a temporary file.

        Args:
            is_last: `last_checkpoint` is to name it.

        Raises:
            InputError: it cannot be written; what was there before is as it was.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = {"model": self.model.state_dict()}
        if self.classes:
            state["classes"] = asdict(self.classes)
        state.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        state.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        try:
            # To a file of Python's: torch's own says nothing of a full disk.
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                torch.save(state, file)
            if is_last:
                self.tag_last_checkpoint(f"{name}.pth")
        except (OSError, RuntimeError) as error:
            # torch puts the latter in the place of the former; others have nothing to do with disks
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError):
                raise
            raise disk_error(path, reason) from error

    def save_iteration(self, iteration: int) -> None:
        """Saves the state after an iteration, and deletes the oldest ones beyond `kept`."""
        self.save(f"model_{iteration:07d}", iteration=iteration)
        if not self.kept or not self.save_to_disk:
            return
        numbers = {_number(path.name): path for path in self._files()}
        # Later ones are broken, or of a run that went on from here before.
        for number in sorted(number for number in numbers if number <= iteration)[: -self.kept]:
            numbers[number].unlink(missing_ok=True)

    def save_best(self, metric: str, value: float, iteration: int) -> None:
        """Saves model_best.pth if no value of this metric has been as high; never for NaN."""
        best = self._best
        if not math.isfinite(value):
            return
        if best and best["metric"] == metric and best["value"] >= value:
            return
        best = {"metric": metric, "value": float(value)}
        self.save("model_best", is_last=False, iteration=iteration, best=best)
        self._best = best

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """As DetectionCheckpointer, through a temporary file."""
        write_atomically(os.path.join(self.save_dir, LAST_CHECKPOINT), last_filename_basename)

    def load(self, path: str, *args, **kwargs) -> dict:
        """As DetectionCheckpointer.

        Raises:
            InputError: a file that is missing, broken or no checkpoint; weights of other shapes;
                with `require_all`, weights that are missing.
        """
        if not path and self.require_all:
            raise InputError("no checkpoint to evaluate: set MODEL.WEIGHTS to one, or use --resume")
        try:
            return super().load(path, *args, **kwargs)
        except InputError as error:
            raise InputError(f"checkpoint {path}: {error}") from error
        except Exception as error:  # a broken file fails in any way, and so does a download
            raise InputError(
                f"checkpoint {path} cannot be loaded (missing, truncated, or no checkpoint): "
                f"{_first_sentence(error)}"
            ) from error
        finally:
            # detectron2's main branch leaves it after an error, and then refuses to load anything.
            self._parsed_url_during_load = None

    def _find_newest(self) -> str:
        """The newest whole checkpoint of the folder, "" for none, as the main process sees it."""
        choice = self._choose() if comm.is_main_process() else None
        path, problems = comm.all_gather(choice)[0]
        if path:
            _require_everywhere(path, "OUTPUT_DIR has to be a folder that all machines share")
        if problems and not path:
            raise InputError(
                f"no checkpoint in {self.save_dir} can be resumed: {'; '.join(problems)}. Put a "
                "whole one there, or train again, without --resume"
            )
        if problems:
            self.logger.warning(f"Going on from {path}, since {'; '.join(problems)}")
        return path

    def _find_weights(self, path: str) -> str:
        """The file to start from, which an earlier start of the same run may have set aside."""
        if self.require_all or not path or "://" in path:
            return path
        is_of_folder = os.path.realpath(os.path.dirname(path)) == os.path.realpath(self.save_dir)
        if is_of_folder and not os.path.isfile(path):
            moved = [run / os.path.basename(path) for run in previous_runs(self.save_dir)]
            moved = [file for file in moved if file.is_file()]
            if moved:
                self.logger.warning(f"{path} was moved to {moved[-1]}: loading it from there")
                path = str(moved[-1])
        _require_everywhere(path, "copy what MODEL.WEIGHTS names to all machines")
        return path

    def _choose(self) -> tuple[str, list[str]]:
        """The file to resume from, and what is wrong with those that should come before it."""
        problems = []
        for path in self._candidates():
            try:
                content = _load_tensors(path, mmap=True)
            except Exception as error:
                problems.append(f"{path} is missing or broken ({_first_sentence(error)})")
                continue
            missing = [key for key in ("model", *self.checkpointables) if key not in content]
            if not missing:
                return path, problems
            problems.append(f"{path} has no state of the {' and the '.join(missing)}")
        return "", problems

    def _candidates(self) -> Iterator[str]:
        """What to resume from, the first choice first; to order the others, all have to be read."""
        tag = Path(self.save_dir, LAST_CHECKPOINT)
        tagged = tag.read_text(errors="replace").strip() if tag.is_file() else ""
        if tagged:
            yield os.path.join(self.save_dir, tagged)
        last = _number(tagged)

        def order(path: Path) -> tuple[bool, int]:
            iteration = _iteration_of(path)
            # Later ones are of a run that went on from there before.
            return iteration <= last, iteration

        others = [path for path in self._files() if path.name != tagged]
        yield from map(str, sorted(others, key=order, reverse=True))

    def _read_best(self) -> dict | None:
        path = Path(self.save_dir, "model_best.pth")
        if not self.save_to_disk or not path.is_file():
            return None
        try:
            best = _load_tensors(path, mmap=True)["best"]
            return {"metric": str(best["metric"]), "value": float(best["value"])}
        except Exception as error:
            reason = _first_sentence(error)
            self.logger.warning(f"{path} is broken, and will be written again: {reason}")
            return None

    def _files(self) -> list[Path]:
        files = Path(self.save_dir).glob("model_*.pth")
        return [path for path in files if CHECKPOINT.fullmatch(path.name)]

    def _load_file(self, filename: str) -> dict:
        """As DetectionCheckpointer, which lets a file run what it likes: here, nothing runs."""
        if not filename.endswith(".pkl"):
            return _load_tensors(filename)
        content = load_arrays(filename)
        if "model" in content and "__author__" in content:  # of detectron2's model zoo
            return content
        weights = content.get("blobs", content)  # of Caffe2, whose names are matched by detectron2
        weights = {name: array for name, array in weights.items() if "_momentum" not in name}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}

    def _check_classes(self, found: "Classes | None") -> None:
        expected = self.classes
        if found is None or expected is None or found.names == expected.names:
            return
        difference = (
            f"it was trained on the classes {listed(found.names)}, but the data set has "
            f"{listed(expected.names)}"
        )
        if self._needs_classes:
            raise InputError(
                f"{difference}. Give the classes the names and the order that they had "
                "(classes.txt, or stuff_classes of the metadata). To train on other classes, "
                "start a new run from it with MODEL.WEIGHTS, without --resume."
            )
        self.logger.warning(f"Training starts from other classes: {difference}")

    def _load_model(self, checkpoint):
        self._check_classes(Classes.from_checkpoint(checkpoint))
        num_entries = len(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        mismatched = incompatible.incorrect_shapes
        if mismatched and (self.require_all or not self.skip_mismatched):
            num_loaded = num_entries - len(mismatched) - len(incompatible.unexpected_keys)
            differences = [
                f"{key} is {dimensions(found)} in the checkpoint, "
                f"{dimensions(expected)} in the model"
                for key, found, expected in mismatched
            ]
            raise InputError(
                f"{num_loaded} of its {num_entries} arrays fit the model; of another shape: "
                f"{listed(differences, separator='; ')}. Was it trained with another "
                "MODEL.SEM_SEG_HEAD.NUM_CLASSES? To train from what fits, set "
                "MODEL.WEIGHTS_SKIP_MISMATCHED True"
            )
        # Not by what is missing: batch norms do not miss their counts.
        if num_entries <= len(incompatible.unexpected_keys) + len(mismatched):
            raise InputError(
                f"none of its {num_entries} arrays is one of the model's: it is of another model, "
                "or of another program"
            )
        if self.require_all:  # not worth a word that inference leaves some of it alone
            unexpected = incompatible.unexpected_keys
            unexpected[:] = [key for key in unexpected if not key.startswith(TRAINING_ONLY)]
        missing = [key for key in incompatible.missing_keys if not key.startswith(TRAINING_ONLY)]
        if missing and self.require_all:
            raise InputError(
                f"it lacks {len(missing)} arrays of the model, such as {', '.join(missing[:3])}: "
                "it is no checkpoint of this config's model"
            )
        return incompatible


def _load_tensors(filename: str | os.PathLike, *, mmap: bool = False) -> dict:
    """The content of a file of torch.save; with `mmap`, tensors are read as they are needed."""
    if not os.path.isfile(filename):  # nor a pipe, which would be waited for
        raise InputError("there is no such file")
    if zipfile.is_zipfile(filename):  # older files have no checksums
        _verify(filename)
    try:
        content = torch.load(filename, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise
        raise InputError(
            f"refused, since it would run {refused[1]}: a .pth may hold tensors and containers "
            "only. If you trust its source, save its tensors again"
        ) from error
    return content if "model" in content else {"model": content}


def _verify(path: str | os.PathLike) -> None:
    """Holds a file of torch.save against the checksums in it, which torch does not look at."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        for entry in archive.infolist():
            if entry.external_attr & _IS_FOLDER:  # torch leaves what memory held in such tensors
                damaged = entry.filename
    if damaged is not None:
        raise InputError(f"its part {damaged} is damaged: get or make the file again")


def _require_everywhere(path: str, remedy: str) -> None:
    found = comm.all_gather(os.path.isfile(path))
    if any(found) and not all(found):
        raise InputError(f"checkpoint {path} is not there for every process: {remedy}")


def _number(file_name: str) -> float:
    """The iteration in the name of a numbered checkpoint; of others, infinity."""
    match = CHECKPOINT.fullmatch(file_name)
    return int(match["iteration"]) if match and match["iteration"].isdecimal() else math.inf


def _iteration_of(path: Path) -> int:
    try:
        return int(_load_tensors(path, mmap=True)["iteration"])
    except Exception:
        return -1


def _first_sentence(error: Exception) -> str:
    text = str(error).split("WeightsUnpickler error:")[-1].strip()  # before it, torch's advice
    return re.split(r"\.\s|\n", text)[0] or type(error).__name__
