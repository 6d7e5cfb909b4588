"""Read the YAML file of a config, safely: untrusted files execute no code and load in seconds.

A method and a baseline together make a config that needs no file. If `configs/X/sar_Y.yaml` does
not exist, it is read as `configs/X/baseline_Y.yaml` with the keys of `configs/methods/sar.yaml`.
The last part of OUTPUT_DIR becomes `sar_Y`. The same holds for every file in `configs/methods`.

The package holds the folder `configs`. If a path starts with `configs/` and there is no such file,
it names the file of the package.
"""

import os
import re
import stat
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

import yaml

from sar.errors import InputError, nearest

BASE_KEY = "_BASE_"
# Limits far above the needs of a config, and far below sizes that take long to read.
_MOST_BYTES = 200_000
_MOST_FILES = 32  # counts every _BASE_ each time it is read
_MOST_VALUES = 20_000  # counts the values of an anchor again for each alias
_MOST_LEVELS = 32
_MOST_DIGITS = 100
_PACKAGE = os.path.dirname(__file__)


def read_config_file(path: str, *, has_names: bool = False) -> dict:
    """Return the keys and values of a YAML file, merged over the files of its _BASE_.

    A dotted key is a nested one: "A.B: 1" means "A: {B: 1}".

    _BASE_ is a path or a list of paths. Relative paths start from the folder of the file that names
    them (see `locate`). Later files in a list replace values of earlier files.

    The path may name a file that does not exist, if a method and a baseline make it (see the
    docstring of this module).

    Args:
        has_names: the first level has names, such as those of methods, and config keys below them.

    Raises:
        InputError: a file is missing, empty, not a regular file, too large, malformed or nested too
            deeply; there are too many files; a file has Python tags, a key in both spellings, or a
            group of keys instead of a value of its _BASE_.
    """
    return _read_with_bases(locate(path), f"config {path}", [], [], has_names)


def locate(path: str, folder: str = "") -> str:
    """Return the path of a config in `folder`, or else of the same config in this package.

    Args:
        path: the package is used only if the path starts with "configs/".
        folder: "" for the current folder.
    """
    own, packaged = os.path.join(folder, path), _packaged(path)
    return packaged if _exists(packaged) and not _exists(own) else own


def _packaged(path: str) -> str:
    """Return the path of a file of the package; "" if the path does not start with "configs/"."""
    path = os.path.normpath(path)
    return os.path.join(_PACKAGE, path) if path.startswith(f"configs{os.sep}") else ""


def _exists(path: str) -> bool:
    return os.path.lexists(path) or bool(_combination(path))


def parse_config(text: str, place: str) -> dict:
    """Return the keys and values of a config that is not in a file of its own.

    Args:
        text: YAML, as in a file.
        place: its name in error messages.

    Raises:
        InputError: as in `read_config_file`; or the config has a _BASE_.
    """
    tree = _parse(text.encode(errors="replace"), place)
    if BASE_KEY in tree:
        raise InputError(f"{place} has a _BASE_, but there is no folder to look for it")
    return tree


def flattened(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted keys of a tree and their values. A group without keys counts as a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nested(tree: dict, place: str) -> dict:
    """Return a tree with groups instead of dotted keys."""
    result: dict = {}
    for key, value in flattened(tree):
        *groups, name = key.split(".")
        if len(groups) >= _MOST_LEVELS:
            raise InputError(f"{place} has more than {_MOST_LEVELS} levels of nesting")
        group = result
        for part in groups:
            group = group.setdefault(part, {})
            if not isinstance(group, dict):
                raise InputError(f"{place}: {part} in {key} is a value and a group: keep one")
        if name in group:
            raise InputError(f"{place} has the key {key} twice, in two spellings: keep one")
        group[name] = value
    return result


def _read_with_bases(
    path: str, place: str, readers: list[str], read: list[str], has_names: bool
) -> dict:
    """Return the tree of a file and its bases.

    Args:
        path: the file.
        place: its name in error messages.
        readers: the files that lead to this file by _BASE_.
        read: all files that were read before.
        has_names: as in `read_config_file`.
    """
    identity = os.path.realpath(path)
    if identity in readers:
        raise InputError(f"{place}: its _BASE_ leads back to itself")
    if len(read) == _MOST_FILES:
        raise InputError(
            f"{place}: _BASE_ leads to more than {_MOST_FILES} files: name each file once"
        )
    read.append(identity)
    pair = _combination(path)
    tree = {BASE_KEY: pair} if pair else _parse(_read_bytes(path, place), place)
    bases = tree.pop(BASE_KEY, [])
    bases = bases if isinstance(bases, list) else [bases]
    if not all(isinstance(base, str) and base and "\0" not in base for base in bases):
        raise InputError(f"{place}: its _BASE_ is not a file name or a list of file names")
    if has_names:
        tree = {k: _nested(v, place) if isinstance(v, dict) else v for k, v in tree.items()}
    else:
        tree = _nested(tree, place)
    result: dict = {}
    for base in bases:
        base = locate(os.path.expanduser(base), os.path.dirname(path))
        base_place = f"config {base} (_BASE_ of {path})"
        base_tree = _read_with_bases(base, base_place, [*readers, identity], read, has_names)
        _merge(base_tree, result, base_place)
    _merge(tree, result, place)
    if pair and isinstance(result.get("OUTPUT_DIR"), str):
        result["OUTPUT_DIR"] = str(Path(result["OUTPUT_DIR"]).with_name(Path(path).stem))
    return result


def names_in(folder: str | os.PathLike) -> list[str]:
    """Return the names of all configs in a folder, with combinations of method and baseline."""
    folder = Path(folder)
    names = {path.name for path in folder.glob("*.yaml")}
    methods = [path.stem for path in Path(folder.parent, "methods").glob("*.yaml")]
    models = [name.removeprefix("baseline_") for name in names if name.startswith("baseline_")]
    return sorted(names | {f"{method}_{model}" for method in methods for model in models})


def baseline_of(path: str) -> str:
    """Return the path of the baseline if a path combines a method with one; else the path."""
    pair = _combination(locate(path))
    return os.path.join(os.path.dirname(path), pair[0]) if pair else path


def _combination(path: str) -> list[str]:
    """Return the two files that METHOD_MODEL.yaml combines; [] if it is not a combination."""
    folder, name = os.path.split(path)
    if not os.path.lexists(path):
        for cut in (found.start() for found in re.finditer("_", name)):
            pair = [f"baseline_{name[cut + 1 :]}", f"../methods/{name[:cut]}.yaml"]
            if all(os.path.isfile(os.path.join(folder, file)) for file in pair):
                return pair
    return []


def _read_bytes(path: str, place: str) -> bytes:
    try:
        # Check before opening: a pipe would block, and reading a device may never end.
        found = os.stat(path)
        is_regular = stat.S_ISREG(found.st_mode)
        content = b""
        # Files of the kernel, such as /proc/kmsg, have size 0, and reading them may never end.
        if is_regular and found.st_size > 0:
            with open(path, "rb") as file:
                content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        folders = {os.path.dirname(path), os.path.dirname(_packaged(path) or path)}
        names = [name for folder in sorted(folders) for name in names_in(folder)]
        hint = nearest(os.path.basename(path), names)
        raise InputError(f"{place} cannot be read: {error.strerror}.{hint}") from error
    if not is_regular:
        raise InputError(f"{place} is not a regular file: give the path of a YAML file")
    return content


def _without_aliases(tree: object) -> object:
    """Return a copy in which each alias of YAML is a group or a list of its own."""
    if isinstance(tree, dict):
        return {key: _without_aliases(value) for key, value in tree.items()}
    return list(map(_without_aliases, tree)) if isinstance(tree, list) else tree


def _merge(tree: dict, result: dict, place: str, prefix: str = "") -> None:
    """Write the values of a tree into `result`, and replace its values."""
    for key, value in tree.items():
        if isinstance(value, dict) and key in result:
            if not isinstance(result[key], dict):
                raise InputError(
                    f"{place}: {prefix}{key} has keys below it, but is a value in its _BASE_: give "
                    "it a value"
                )
            _merge(value, result[key], place, f"{prefix}{key}.")
        else:
            result[key] = value


class _Loader(yaml.SafeLoader):
    """Loader of plain YAML with limits on size and depth. Dates stay text."""

    def get_single_node(self) -> yaml.Node | None:
        try:
            node = super().get_single_node()
        except (ValueError, OverflowError) as error:  # PyYAML does not check these numbers
            problem = "found an escape (\\U...) or a %YAML version that is out of range"
            raise yaml.scanner.ScannerError(None, None, problem, self.get_mark()) from error
        if node is not None:
            _check_size(node, {})
        return node


def _construct_short(construct: Callable, kind: str) -> Callable:
    def construct_short(loader: _Loader, node: yaml.ScalarNode):
        if len(node.value) > _MOST_DIGITS:
            raise _malformed(node, f"{kind} of {len(node.value)} characters")
        try:
            return construct(loader, node)
        except (ValueError, LookupError, OverflowError) as error:
            raise _malformed(node, f'"{node.value}", expected {kind}') from error

    return construct_short


for _tag, _construct, _kind in (
    ("int", yaml.SafeLoader.construct_yaml_int, "a number"),
    ("float", yaml.SafeLoader.construct_yaml_float, "a number"),
    ("bool", yaml.SafeLoader.construct_yaml_bool, "true or false"),
):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct_short(_construct, _kind))
_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


def _malformed(node: yaml.Node, found: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, f"found {found}", node.start_mark)


def _check_size(node: yaml.Node, sizes: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return the number of values and of levels of a node, with its aliases expanded.

    Args:
        node: the node.
        sizes: the result of each node seen so far, by its id; None for nodes around this node.
    """
    if id(node) in sizes:
        if sizes[id(node)] is None:
            raise _malformed(node, "a value that contains itself")
        return sizes[id(node)]
    sizes[id(node)] = None
    parts = []
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated_keys(node)
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    counted = [_check_size(part, sizes) for part in parts]
    values = 1 + sum(values for values, _ in counted)
    levels = 1 + max((levels for _, levels in counted), default=0)
    if values > _MOST_VALUES:
        raise _malformed(node, f"more than {_MOST_VALUES} values, with aliases expanded")
    if levels > _MOST_LEVELS:
        raise _malformed(node, f"more than {_MOST_LEVELS} levels of nesting")
    sizes[id(node)] = values, levels
    return values, levels


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    keys = set()
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key.value, Hashable):
            continue
        if key.value in keys:
            raise _malformed(key, f"the key {key.value} twice in one group")
        keys.add(key.value)


def _parse(content: bytes, place: str) -> dict:
    if len(content) > _MOST_BYTES:
        raise InputError(f"{place} has more than {_MOST_BYTES} bytes, so it is not a config")
    try:
        tree = yaml.load(content, Loader=_Loader)
    except yaml.constructor.ConstructorError as error:
        raise InputError(
            f"{place} is refused, since it is not plain YAML: {_describe(error)}"
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"{place} is not valid YAML: {_describe(error)}") from error
    except RecursionError as error:
        raise InputError(f"{place} has more than {_MOST_LEVELS} levels of nesting") from error
    if not isinstance(tree, dict):
        raise InputError(f"{place} is empty or not a mapping of KEY: VALUE")
    return _without_aliases(tree)


def _describe(error: yaml.YAMLError) -> str:
    """Return problem and line of an error of PyYAML. (Its own text has several lines.)"""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    return f"{problem}, line {mark.line + 1}" if mark else str(problem)
