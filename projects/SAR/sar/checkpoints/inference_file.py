"""The file that a program needs to predict: weights, classes and config of one model.

A training writes it at its end, as model_inference.pth. It is a checkpoint without the state of the
training (optimizer, regularizers, losses), so it has a half to a third of the size. It can be given
wherever a checkpoint or a config can.
"""

import os
from dataclasses import asdict

import torch
from torch import nn

from sar.checkpoints.classes import Classes
from sar.checkpoints.tensor_file import first_sentence, load_tensors
from sar.errors import InputError

SUFFIX = ".pth"
# First parts of the names of weights that inference does not use.
TRAINING_ONLY = ("regularizers.", "loss.", "auxiliary_head.")


def is_training_only(name: str, model: nn.Module) -> bool:
    """Return True if an array belongs to the training branch that a model has."""
    is_extended = isinstance(getattr(model, "regularizers", None), nn.ModuleDict)
    return is_extended and name.startswith(TRAINING_ONLY)


def inference_state(model: nn.Module, classes: Classes | None, config: str) -> dict:
    """Return the content of the file. All its numbers are float32, or integers.

    Args:
        model: the model, with or without its training branch.
        classes: the classes that it predicts.
        config: from `sar.config.portable_config`.
    """
    weights = {
        name: tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.cpu()
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, torch.Tensor) and not is_training_only(name, model)
    }
    known = {"classes": asdict(classes)} if classes else {}
    return {"model": weights, "config": config, **known}


def config_in(path: str | os.PathLike) -> str:
    """Return the config in a file of `inference_state`, as YAML. The weights are not loaded.

    Raises:
        InputError: the file is missing, broken or refused, or holds no config.
    """
    try:
        config = load_tensors(path, mmap=True).get("config")
    except Exception as error:  # a broken file can raise anything
        raise InputError(
            f"{path} cannot be loaded (missing, truncated, or not a checkpoint): "
            f"{first_sentence(error)}"
        ) from error
    if not isinstance(config, str):
        raise InputError(
            f"{path} holds no config. Give model_inference.pth of the training, or --config-file "
            f"CONFIG.yaml and, at the end of the line, MODEL.WEIGHTS {path}"
        )
    return config
