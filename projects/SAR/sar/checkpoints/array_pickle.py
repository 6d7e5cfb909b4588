"""Read pickles of arrays, such as .pkl files of the model zoo, without executing their code."""

import math
import os
import pickle
import re
from collections import OrderedDict

import numpy as np

from sar.errors import InputError


def load_arrays(path: str | os.PathLike):
    """Return the content of a pickle: containers of NumPy arrays, numbers and strings.

    The arrays hold numbers or text. The pickle calls no function of NumPy, since NumPy would trust
    its dtypes, even a dtype with addresses of objects. Functions of this module build and check the
    arrays instead.

    Raises:
        InputError: the pickle holds anything else. That is not executed, and the message names it.
        OSError, EOFError, ValueError, pickle.UnpicklingError, ...: the file is missing, broken or
            not a pickle.
    """
    with open(path, "rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        # Before NumPy 2, numpy._core was numpy.core.
        known = _STAND_INS.get((module.replace("numpy.core.", "numpy._core."), name))
        if known is None:
            raise InputError(
                f"refused, since it would run {module}.{name}: a .pkl may hold arrays and "
                "containers only. If you trust its source, convert it to a .pth of tensors yourself"
            )
        return known


class _Dtype:
    """A dtype of numbers or text, which uses only the byte order of its pickled state."""

    def __init__(self, name: str, *_) -> None:
        if not re.fullmatch(r"[<>|=]?(b1|i[1248]|u[1248]|f2|f4|f8|c8|c16|[SU]\d{1,9})", name):
            raise InputError(f"refused, since it has an array of dtype {name!r}, not of numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, content = state
        if isinstance(content, str):  # from Python 2
            content = content.encode("latin-1")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise ValueError(f"{len(content)} bytes for an array of shape {shape}")
        super().__setstate__((1, shape, dtype.dtype, bool(is_fortran), content))


def _reconstruct(*_) -> _Array:
    return np.empty(0).view(_Array)  # __setstate__ is called next


def _frombuffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(content, dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: _Dtype, content: bytes | str) -> np.generic:
    content = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(content, dtype.dtype, count=1)[0]


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin-1")  # pickle uses no other encoding


def _no_bytes() -> bytes:
    return b""  # old protocols use `bytes` for an empty array; the real `bytes` accepts a size


# Replacements for the functions in NumPy's pickles of arrays, dtypes and scalars.
_STAND_INS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "ndarray"): "argument of _reconstruct, which ignores it",
    ("numpy", "dtype"): _Dtype,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}
