"""Reads pickles of arrays, such as the model zoo's .pkl files, and runs nothing that is in them."""

import os
import pickle

from sar.errors import InputError

# What NumPy pickles arrays, dtypes and scalars with, before and since NumPy 2.
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (f"numpy.{core}.{module}", function)
        for core in ("core", "_core")
        for module, function in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}


def load_arrays(path: str | os.PathLike):
    """Containers of NumPy arrays, numbers and strings from a pickle.

    Raises:
        InputError: the pickle holds anything else, which is not run; the message names it.
        OSError, EOFError, pickle.UnpicklingError: the file is missing, truncated or no pickle.
    """
    with open(path, "rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise InputError(
            f"refused, since it would run {module}.{name}: a .pkl may hold arrays and containers "
            "only. If you trust its source, convert it to a .pth of tensors yourself"
        )
