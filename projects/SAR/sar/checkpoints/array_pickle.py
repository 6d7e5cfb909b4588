"""Reads pickles of arrays, such as the model zoo's .pkl files, and runs nothing that is in them."""

import math
import os
import pickle
import re
from collections import OrderedDict

import numpy as np

from sar.errors import InputError


def load_arrays(path: str | os.PathLike):
    """Containers of NumPy arrays of numbers or text, numbers and strings from a pickle.

    Not even NumPy's own functions are called: it believes what a pickle says of a dtype, up to
    which bytes of an array are addresses of objects. What is made here is checked.

    Raises:
        InputError: the pickle holds anything else, which is not run; the message names it.
        OSError, EOFError, ValueError, pickle.UnpicklingError, ...: the file is missing, broken or
            no pickle.
    """
    with open(path, "rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        # Before NumPy 2, its _core was core.
        known = _STAND_INS.get((module.replace("numpy.core.", "numpy._core."), name))
        if known is None:
            raise InputError(
                f"refused, since it would run {module}.{name}: a .pkl may hold arrays and "
                "containers only. If you trust its source, convert it to a .pth of tensors yourself"
            )
        return known


class _Dtype:
    """A dtype of numbers or text, of whose pickled state only the byte order is taken."""

    def __init__(self, name: str, *_) -> None:
        if not re.fullmatch(r"[<>|=]?(b1|i[1248]|u[1248]|f2|f4|f8|c8|c16|[SU]\d{1,9})", name):
            raise InputError(f"refused, since it has an array of dtype {name!r}, not of numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, content = state
        if isinstance(content, str):  # of Python 2
            content = content.encode("latin-1")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise ValueError(f"{len(content)} bytes for an array of shape {shape}")
        super().__setstate__((1, shape, dtype.dtype, bool(is_fortran), content))


def _reconstruct(*_) -> _Array:
    return np.empty(0).view(_Array)  # its state comes next


def _frombuffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(content, dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: _Dtype, content: bytes | str) -> np.generic:
    content = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(content, dtype.dtype, count=1)[0]


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin-1")  # pickle uses no other


def _no_bytes() -> bytes:
    return b""  # of an empty array, in old protocols; `bytes` would take a size


# In the place of what NumPy pickles arrays, dtypes and scalars with.
_STAND_INS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "ndarray"): "of _reconstruct, which takes no notice of it",
    ("numpy", "dtype"): _Dtype,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}
