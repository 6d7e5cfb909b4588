"""Checkpoints that are written whole, and read with errors that say what does not fit."""

import os
import pickle
import re
import shutil

import torch

from sar.errors import InputError
from sar.fileio import atomic_path, write_atomically

from detectron2.checkpoint import DetectionCheckpointer

from .array_pickle import load_arrays

# First parts of the names of what inference does not use.
TRAINING_ONLY = ("regularizers.", "loss.")


class Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer, with atomic writes and clear errors.

    Args:
        model, save_dir, checkpointables: as DetectionCheckpointer.
        skip_mismatched: load what fits from a checkpoint of other shapes, such as another number
            of classes, instead of refusing it.
        require_all: refuse a checkpoint that leaves a part of the model at its random
            initialization; but for what inference does not use, regularizers and the loss.
    """

    def __init__(
        self, model, save_dir="", *, skip_mismatched=False, require_all=False, **checkpointables
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.skip_mismatched = skip_mismatched
        self.require_all = require_all

    def save(self, name: str, **kwargs) -> None:
        """As DetectionCheckpointer, through a temporary file."""
        if not self.save_dir or not self.save_to_disk:
            return
        state = {"model": self.model.state_dict()}
        state.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        state.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        try:
            with atomic_path(path) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
            free = shutil.disk_usage(self.save_dir).free
            raise InputError(
                f"checkpoint {path} cannot be written ({error}); {free / 2**20:.0f} MiB are free "
                "there. The one before is as it was: make room, and go on with --resume"
            ) from error
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """As DetectionCheckpointer, through a temporary file."""
        write_atomically(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def load(self, path: str, *args, **kwargs) -> dict:
        """As DetectionCheckpointer.

        Raises:
            InputError: a file that is missing, truncated or no checkpoint; weights of other
                shapes; with `require_all`, weights that are missing.
        """
        if not path and self.require_all:
            raise InputError("no checkpoint to evaluate: set MODEL.WEIGHTS to one, or use --resume")
        try:
            return super().load(path, *args, **kwargs)
        except InputError as error:
            raise InputError(f"checkpoint {path}: {error}") from error
        except Exception as error:  # a broken file fails in any way, and so does a download
            reason = re.split(r"\.\s|\n", str(error).strip())[0] or type(error).__name__
            raise InputError(
                f"checkpoint {path} cannot be loaded (missing, truncated, or no checkpoint): "
                f"{reason}"
            ) from error

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

    def _load_model(self, checkpoint):
        num_entries = len(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        mismatched = incompatible.incorrect_shapes
        if mismatched and (self.require_all or not self.skip_mismatched):
            num_loaded = num_entries - len(mismatched) - len(incompatible.unexpected_keys)
            raise InputError(
                f"{num_loaded} of its {num_entries} arrays fit the model; of another shape: "
                + "; ".join(
                    f"{key} is {_size(found)} in the checkpoint, {_size(expected)} in the model"
                    for key, found, expected in mismatched[:5]
                )
                + (f" and {len(mismatched) - 5} more" if len(mismatched) > 5 else "")
                + ". Was it trained with another MODEL.SEM_SEG_HEAD.NUM_CLASSES? To train from "
                "what fits, set MODEL.WEIGHTS_SKIP_MISMATCHED True"
            )
        if len(incompatible.missing_keys) == len(self.model.state_dict()):
            raise InputError(
                f"none of its {num_entries} arrays is one of the model's: it is of another model, "
                "or of another program"
            )
        missing = [key for key in incompatible.missing_keys if not key.startswith(TRAINING_ONLY)]
        if missing and self.require_all:
            raise InputError(
                f"it lacks {len(missing)} arrays of the model, such as {', '.join(missing[:3])}: "
                "it is no checkpoint of this config's model"
            )
        return incompatible


def _load_tensors(filename: str) -> dict:
    try:
        content = torch.load(filename, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise
        raise InputError(
            f"refused, since it would run {refused[1]}: a .pth may hold tensors and containers "
            "only. If you trust its source, save its tensors anew"
        ) from error
    return content if "model" in content else {"model": content}


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
