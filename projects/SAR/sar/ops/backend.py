"""Which of two modules computes: one of Triton kernels where they work, else one of PyTorch."""

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

logger = logging.getLogger(__name__)


@cache
def choose_backend(name: str, device: torch.device) -> ModuleType:
    """The module `name`_triton, on GPUs where it works, or `name`_pytorch.

    A module of Triton kernels has a function `try_out(device)`, which launches each of them.
    """
    pytorch = import_module(f"{name}_pytorch")
    if device.type != "cuda" or not find_spec("triton"):
        return pytorch
    try:
        triton = import_module(f"{name}_triton")
        triton.try_out(device)
    except Exception as error:  # it needs a C compiler, a driver and a GPU that it knows
        logger.warning(
            f"Triton does not work here, so that PyTorch computes {name}, which takes longer: "
            f"{error}"
        )
        return pytorch
    return triton
