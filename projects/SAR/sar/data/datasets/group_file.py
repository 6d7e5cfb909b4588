"""Read groups.json: groups of classes that get means of their own.

A benchmark or a user defines the groups. The file has the names of the classes of each group:

    {"vehicles": ["car", "truck"], "small": ["pole", "sign"]}

A class may be in several groups or in none. The evaluation adds mIoU@vehicles and mIoU@small.
"""

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from sar.errors import InputError, nearest, shortened

# The evaluation gives these names to groups by the frequency of the classes in training.
_TAKEN = ("f", "c", "r", "f_pixel", "c_pixel", "r_pixel")
_EXPECTED = 'an object such as {"small": ["pole", "sign"]}'


def read_group_file(path: Path, class_names: Sequence[str]) -> dict[str, list[int]]:
    """Read the groups of a groups.json.

    Args:
        path: the file, which need not exist.
        class_names: K names, in the order of the ids.

    Returns:
        The ids of the classes of each group, in ascending order; {} without a file.

    Raises:
        InputError: the file cannot be read or has another form; a group is empty or its name
            cannot be used; a class is unknown.
    """
    if not os.path.lexists(path):
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): write {_EXPECTED}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected {_EXPECTED}, found {shortened(content)}.")
    return {name: _ids(path, name, found, class_names) for name, found in content.items()}


def _ids(path: Path, group: str, found: object, class_names: Sequence[str]) -> list[int]:
    if not re.fullmatch(r"[\w-]+", group) or group in _TAKEN:
        raise InputError(
            f'{path}: "{group}" cannot be the name of a group: use letters, digits, _ and -, but '
            f"none of {', '.join(_TAKEN)}."
        )
    if not (isinstance(found, list) and found and all(isinstance(name, str) for name in found)):
        raise InputError(
            f'{path}: group "{group}": expected a list of class names, found {shortened(found)}.'
        )
    names = {unicodedata.normalize("NFC", name) for name in found}
    for name in names:
        if name not in class_names:
            raise InputError(
                f'{path}: group "{group}": the class "{name}" is not in classes.txt.'
                f"{nearest(name, class_names)}"
            )
    return sorted(class_names.index(name) for name in names)
