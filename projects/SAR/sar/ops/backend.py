"""Choose between Triton kernels and PyTorch for a computation."""

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

logger = logging.getLogger(__name__)


@cache
def choose_backend(name: str, device: torch.device) -> ModuleType:
    """Return the module `name`_triton if it works on this GPU, else `name`_pytorch.

    A module of Triton kernels has a function `try_out(device)`, which launches each kernel.
    """
    pytorch = import_module(f"{name}_pytorch")
    if device.type != "cuda" or not find_spec("triton"):
        return pytorch
    try:
        triton = import_module(f"{name}_triton")
        triton.try_out(device)
    except Exception as error:  # it needs a C compiler, a driver and a supported GPU
        logger.warning(
            f"Triton does not work here, so PyTorch computes {name}, which takes longer: {error}"
        )
        return pytorch
    return triton
