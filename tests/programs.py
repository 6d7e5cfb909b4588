"""The programs of the repository, to be called as functions."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType


def load_program(path: str | os.PathLike) -> ModuleType:
    """The file as a module, made anew at each call; nobody who imports its name finds it."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
