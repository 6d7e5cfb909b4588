"""Save checkpoints completely or not at all, and load them with clear errors."""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from sar.checkpoints.array_pickle import load_arrays
from sar.checkpoints.classes import Classes
from sar.checkpoints.inference_file import TRAINING_ONLY, inference_state, is_training_only
from sar.checkpoints.tensor_file import first_sentence, load_tensors, save_tensors
from sar.errors import InputError, dimensions, listed
from sar.files.atomic import atomic_path, write_atomically
from sar.files.disk import disk_error
from sar.files.run_folder import CHECKPOINT, INFERENCE_MODEL, LAST_CHECKPOINT, previous_runs

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from detectron2.utils.file_io import Detectron2Handler


class Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer with atomic writes and clear errors. It skips broken files.

    Only the main process writes; all processes load the same file. A training writes:

    - `model_0000499.pth`, ...: the latest states, named by the last finished iteration.
    - `model_final.pth`: the state at the end.
    - `model_best.pth`: the best state by a metric.
    - `model_inference.pth`: the weights at the end, with classes and config, for predictions.
    - `last_checkpoint`: the name of the latest checkpoint to resume. After a crash at any time, it
      names a complete file.

    Args:
        model, save_dir, checkpointables: as in DetectionCheckpointer.
        skip_mismatched: if some weights have other shapes, as with another number of classes, load
            only the weights that fit. Otherwise the checkpoint is refused.
        require_all: refuse a checkpoint that lacks weights of the model. Weights that inference
            does not use (regularizers and the loss) may be missing.
        kept: how many numbered checkpoints `save_iteration` keeps; 0 for all.
        classes: the classes of the data set, saved with the weights. With `require_all`, and when a
            training is resumed, a checkpoint with other classes is refused. None: not checked.
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
        """Load the start of a training. Every process must call it. No file is changed.

        Args:
            weights: the file for a new training; "" for random weights.
            resume: continue from the last checkpoint, if there is one, with the state of all
                checkpointables. Broken checkpoints are skipped with a warning.

        Returns:
            True if the training is resumed.

        Raises:
            InputError: as in `load`; all checkpoints are broken; a process cannot see the file.
        """
        path, is_resumed = self.find(weights, resume=resume)
        if is_resumed:
            self._needs_classes = True
            self.load(path)
            self._best = self._read_best()
            self._warn_of_deletion(_number(os.path.basename(path)))
        else:
            self.load(path, checkpointables=[])
        return is_resumed

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Load as DetectionCheckpointer does, but skip broken files as in `start_run`.

        In the result, "file" is the loaded file, or "" for none.
        """
        path, is_resumed = self.find(path, resume=resume)
        if is_resumed:
            self._needs_classes = True
            return {**self.load(path), "file": path}
        return {**self.load(path, checkpointables=[]), "file": path}

    def find(self, weights: str, *, resume: bool) -> tuple[str, bool]:
        """Find the file that a run starts from. Every process must call it.

        Args:
            weights, resume: as in `start_run`.

        Returns:
            The file, "" for random weights; and True if it is the last checkpoint of OUTPUT_DIR.

        Raises:
            InputError: the file is missing or cannot be downloaded, all checkpoints are broken, or
                a process cannot see the file.
        """
        newest = self._find_newest() if resume else ""
        if newest:
            return newest, True
        if not weights and self.require_all:
            raise InputError("no checkpoint to evaluate: set MODEL.WEIGHTS to one, or use --resume")
        if not weights:
            return "", False
        if "://" in weights:
            self._fetch(weights)
            return weights, False
        path = weights if self.require_all else self._follow_moved(weights)
        _require_everywhere(path, "copy the file of MODEL.WEIGHTS to all machines")
        return path, False

    def save(self, name: str, *, is_last: bool = True, **kwargs) -> None:
        """Save as DetectionCheckpointer does, but through a temporary file.

        Args:
            name: file name without ".pth".
            is_last: also write the name to `last_checkpoint`.

        Raises:
            InputError: the file cannot be written. An earlier file with this name does not change.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = {"model": self.model.state_dict()}
        if self.classes:
            state["classes"] = asdict(self.classes)
        state.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        state.update(kwargs)
        self._write(f"{name}.pth", state, is_last=is_last)

    def save_for_inference(self, config: str, iteration: int) -> None:
        """Save model_inference.pth, see `inference_state`. Errors as in `save`.

        Args:
            config: from `sar.config.portable_config`.
            iteration: the last one that was trained.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = inference_state(self.model, self.classes, config)
        self._write(INFERENCE_MODEL, {**state, "iteration": iteration}, is_last=False)

    def _write(self, name: str, state: dict, *, is_last: bool) -> None:
        path = os.path.join(self.save_dir, name)
        self.logger.info(f"Saving checkpoint to {path}")
        try:
            with atomic_path(path) as temporary:
                save_tensors(state, temporary)
            if is_last:
                self.tag_last_checkpoint(name)
        except OSError as error:
            raise disk_error(path, error) from error

    def save_iteration(self, iteration: int) -> None:
        """Save the state after an iteration, and delete the oldest checkpoints beyond `kept`."""
        self.save(f"model_{iteration:07d}", iteration=iteration)
        if not self.kept or not self.save_to_disk:
            return
        for path in self._numbered(iteration)[: -self.kept]:
            path.unlink(missing_ok=True)

    def _numbered(self, iteration: float) -> list[Path]:
        """Return the numbered checkpoints up to an iteration, the oldest first."""
        numbers = {_number(path.name): path for path in self._files()}
        numbers.pop(math.inf, None)
        # Later files are broken, or from an earlier run that continued from here.
        return [numbers[number] for number in sorted(numbers) if number <= iteration]

    def _warn_of_deletion(self, iteration: float) -> None:
        """Warn if an earlier start kept more numbered checkpoints than this one keeps."""
        number = len(self._numbered(iteration))
        if self.save_to_disk and self.kept and number > self.kept:
            self.logger.warning(
                f"{self.save_dir} has {number} numbered checkpoints, but SOLVER.CHECKPOINTS_KEPT "
                f"is {self.kept}: the next save deletes the {number + 1 - self.kept} oldest. To "
                "keep them, stop now with Ctrl-C, and resume with SOLVER.CHECKPOINTS_KEPT 0"
            )

    def save_best(self, metric: str, value: float, iteration: int) -> None:
        """Save model_best.pth if this value of the metric is the best so far; never for NaN.

        The highest value is the best. For "sem_seg/Loss", it is the lowest.
        """
        best = self._best
        if not math.isfinite(value):
            return
        if best and best["metric"] == metric:
            is_loss = metric.rpartition("/")[2] == "Loss"
            if best["value"] <= value if is_loss else best["value"] >= value:
                return
        best = {"metric": metric, "value": float(value)}
        self.save("model_best", is_last=False, iteration=iteration, best=best)
        self._best = best

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write `last_checkpoint` as DetectionCheckpointer does, but through a temporary file."""
        write_atomically(os.path.join(self.save_dir, LAST_CHECKPOINT), last_filename_basename)

    def load(self, path: str, *args, **kwargs) -> dict:
        """Load as DetectionCheckpointer does.

        Raises:
            InputError: the file is missing, broken or not a checkpoint; weights have other shapes;
                with `require_all`, weights are missing.
        """
        try:
            return super().load(path, *args, **kwargs)
        except InputError as error:
            raise InputError(f"checkpoint {path}: {error}") from error
        except Exception as error:  # a broken file or a failed download can raise anything
            raise InputError(
                f"checkpoint {path} cannot be loaded (missing, truncated, or not a checkpoint): "
                f"{first_sentence(error)}"
            ) from error
        finally:
            # After an error, detectron2's main branch would refuse to load again.
            self._parsed_url_during_load = None

    def _fetch(self, url: str) -> None:
        """Download a file to iopath's cache, if it is not there."""
        try:
            self.path_manager.get_local_path(url)
        except Exception as error:  # a download can raise anything
            prefix = Detectron2Handler.PREFIX
            address = url.replace(prefix, Detectron2Handler.S3_DETECTRON2_PREFIX)
            raise InputError(
                f"MODEL.WEIGHTS {url} cannot be downloaded: {first_sentence(error)}. Download "
                f"{address} on a machine with network, and set MODEL.WEIGHTS to the file"
            ) from error

    def _find_newest(self) -> str:
        """Return the newest complete checkpoint that the main process finds; "" for none."""
        choice = self._choose() if comm.is_main_process() else None
        path, problems = comm.all_gather(choice)[0]
        if path:
            _require_everywhere(path, "OUTPUT_DIR has to be a folder that all machines share")
        if problems and not path:
            raise InputError(
                f"no checkpoint in {self.save_dir} can be resumed: {'; '.join(problems)}. Put a "
                "complete checkpoint there, or start a new training without --resume"
            )
        if problems:
            self.logger.warning(f"Resuming from {path}, since {'; '.join(problems)}")
        return path

    def _follow_moved(self, path: str) -> str:
        """Return the present path of a file that an earlier start in this folder may have moved."""
        is_of_folder = os.path.realpath(os.path.dirname(path)) == os.path.realpath(self.save_dir)
        if is_of_folder and not os.path.isfile(path):
            moved = [run / os.path.basename(path) for run in previous_runs(self.save_dir)]
            moved = [file for file in moved if file.is_file()]
            if moved:
                self.logger.warning(f"{path} was moved to {moved[-1]}: loading it from there")
                return str(moved[-1])
        return path

    def _choose(self) -> tuple[str, list[str]]:
        """Return the file to resume from, and the problems of newer files."""
        problems = []
        for path in self._candidates():
            try:
                content = load_tensors(path, mmap=True)
            except Exception as error:
                problems.append(f"{path} is missing or broken ({first_sentence(error)})")
                continue
            missing = [key for key in ("model", *self.checkpointables) if key not in content]
            if not missing:
                return path, problems
            problems.append(f"{path} has no state of the {' and the '.join(missing)}")
        return "", problems

    def _candidates(self) -> Iterator[str]:
        """Yield the files to resume from, in order of preference. Ordering reads all files."""
        tag = Path(self.save_dir, LAST_CHECKPOINT)
        tagged = tag.read_text(errors="replace").strip() if tag.is_file() else ""
        if tagged:
            yield os.path.join(self.save_dir, tagged)
        last = _number(tagged)

        def order(path: Path) -> tuple[bool, int]:
            iteration = _iteration_of(path)
            # Later files are from an earlier run that continued from there.
            return iteration <= last, iteration

        others = [path for path in self._files() if path.name != tagged]
        yield from map(str, sorted(others, key=order, reverse=True))

    def _read_best(self) -> dict | None:
        path = Path(self.save_dir, "model_best.pth")
        if not self.save_to_disk or not path.is_file():
            return None
        try:
            best = load_tensors(path, mmap=True)["best"]
            return {"metric": str(best["metric"]), "value": float(best["value"])}
        except Exception as error:
            reason = first_sentence(error)
            self.logger.warning(f"{path} is broken, and will be written again: {reason}")
            return None

    def _files(self) -> list[Path]:
        files = Path(self.save_dir).glob("model_*.pth")
        return [path for path in files if CHECKPOINT.fullmatch(path.name)]

    def _load_file(self, filename: str) -> dict:
        """Read a file as DetectionCheckpointer does, but execute no code in it."""
        if not filename.endswith(".pkl"):
            return load_tensors(filename)
        content = load_arrays(filename)
        if "model" in content and "__author__" in content:  # from detectron2's model zoo
            return content
        weights = content.get("blobs", content)  # from Caffe2; detectron2 matches the names
        weights = {name: array for name, array in weights.items() if "_momentum" not in name}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}

    def _check_classes(self, found: Classes | None) -> None:
        expected = self.classes
        if found is None or expected is None or found.names == expected.names:
            return
        difference = (
            f"it was trained on the classes {listed(found.names)}, but the data set has "
            f"{listed(expected.names)}"
        )
        if self._needs_classes:
            raise InputError(
                f"{difference}. Give the classes the names and the order of the checkpoint "
                "(classes.txt, or stuff_classes of the metadata). To train on other classes, "
                "start a new run from the checkpoint with MODEL.WEIGHTS, without --resume."
            )
        self.logger.warning(f"Training starts from other classes: {difference}")

    def _log_incompatible_keys(self, incompatible) -> None:
        """Log one line for each kind. (detectron2 prints every name.)"""
        mismatched = [name for name, *_ in incompatible.incorrect_shapes]
        missing = [name for name in incompatible.missing_keys if name not in mismatched]
        for kind, names in (
            ("in the model, but not in the checkpoint", missing),
            ("in the checkpoint, but not in the model", incompatible.unexpected_keys),
            ("of another shape in the model", mismatched),
        ):
            if names:
                self.logger.warning(f"Not loaded: {len(names)} arrays {kind}: {listed(names)}")

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
                f"{num_loaded} of its {num_entries} arrays fit the model. Arrays of another shape: "
                f"{listed(differences, separator='; ')}. Was it trained with another "
                "MODEL.SEM_SEG_HEAD.NUM_CLASSES? To train from the arrays that fit, set "
                "MODEL.WEIGHTS_SKIP_MISMATCHED True"
            )
        # Batch counts of norms may be missing, so compare only the arrays of the checkpoint.
        if num_entries <= len(incompatible.unexpected_keys) + len(mismatched):
            raise InputError(
                f"none of its {num_entries} arrays is in the model: it is from another model or "
                "another program"
            )
        if self.require_all:  # inference does not use all arrays
            unexpected = incompatible.unexpected_keys
            unexpected[:] = [key for key in unexpected if not key.startswith(TRAINING_ONLY)]
        missing = [
            key for key in incompatible.missing_keys if not is_training_only(key, self.model)
        ]
        if missing and self.require_all:
            raise InputError(
                f"it lacks {len(missing)} arrays of the model, such as {', '.join(missing[:3])}: "
                "it is not a checkpoint of this config's model"
            )
        return incompatible


def _require_everywhere(path: str, remedy: str) -> None:
    found = comm.all_gather(os.path.isfile(path))
    if not any(found):
        raise InputError(f"checkpoint {path} (MODEL.WEIGHTS): file not found")
    if not all(found):
        raise InputError(f"checkpoint {path} is not found by every process: {remedy}")


def _number(file_name: str) -> float:
    """Return the iteration in the name of a numbered checkpoint; infinity for other names."""
    match = CHECKPOINT.fullmatch(file_name)
    return int(match["iteration"]) if match and match["iteration"].isdecimal() else math.inf


def _iteration_of(path: Path) -> int:
    try:
        return int(load_tensors(path, mmap=True)["iteration"])
    except Exception:
        return -1
