"""Import a user's own modules, which register heads, data sets or regularizers (--import).

An imported module may define two functions:

- `add_config(cfg)` adds the keys of the module to a config.
- `build_writers(cfg)` returns detectron2 `EventWriter`s. A training gives them its metrics.

This module does not import PyTorch or detectron2.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sar.errors import InputError
from sar.files.atomic import sha256

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.utils.events import EventWriter

# Functions that add keys to every config that is loaded in this process.
config_functions: list[Callable[["CfgNode"], None]] = []
# Functions that build more writers of metrics for every training in this process.
writer_functions: list[Callable[["CfgNode"], Sequence["EventWriter"]]] = []


def import_modules(names: Iterable[str]) -> None:
    """Import modules, and use their `add_config` and `build_writers` in this process from now on.

    Args:
        names: module names, or paths of .py files. A module is also looked for in the current
            folder. A file can import its neighbours.

    Raises:
        InputError: there is no such module or file. Errors inside a module pass through.
    """
    for name in names:
        module = _import_file(name) if name.endswith(".py") else _import_module(name)
        if hasattr(module, "add_config"):
            add_config_function(module.add_config)
        if hasattr(module, "build_writers") and module.build_writers not in writer_functions:
            writer_functions.append(module.build_writers)


def add_config_function(function: Callable[["CfgNode"], None]) -> None:
    """Use a function that adds keys in every config that is loaded later in this process."""
    if function not in config_functions:
        config_functions.append(function)


def checksums(names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 checksum of the file of each imported module that has one, by its name.

    Args:
        names: as in `import_modules`, after it.
    """
    found = {}
    for name in names:
        module = sys.modules[Path(name).stem if name.endswith(".py") else name]
        if file := getattr(module, "__file__", None):  # a folder without __init__.py has none
            found[name] = sha256(file)
    return found


def _import_module(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # another module, which this one imports
        raise InputError(
            f"--import {name}: there is no such module. Give the name of an installed module, of a "
            "module in the current folder, or the path of a .py file"
        ) from error


def _import_file(path: str) -> ModuleType:
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise InputError(f"--import {path}: there is no such file")
    loaded = sys.modules.get(file.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(file):
            return loaded
        raise InputError(
            f"--import {path}: a module is called {file.stem} already. Rename the file"
        )
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # so that its classes can be pickled
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise
    return module
