"""Generate a data set at its first use, in a folder of its own.

recipe.json in the folder records the numbers that the data set follows from, and a checksum of each
file. So a data set of an older recipe is replaced, but files of a user never are.
"""

import errno
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from sar.data import datasets
from sar.errors import InputError, nearest
from sar.files.atomic import sha256

SPLITS = ("train", "val", "test")
RECIPE = "recipe.json"

logger = logging.getLogger(__name__)


def generate_folder(
    name: str,
    folder: str | os.PathLike,
    recipe: Mapping[str, int],
    class_names: Iterable[str],
    write_split: Callable[[Path, str], None],
) -> None:
    """Generate a data set as `folder`, unless it is there from the same recipe already.

    The data set is written to a temporary folder next to `folder` and renamed when it is complete.
    So `folder` never holds half a data set, and processes that generate at the same time all
    succeed. A data set of another recipe is replaced if all its files are as they were generated.

    Args:
        name: the data set's name, for messages.
        folder: where to generate; a leading ~ is the home folder.
        recipe: the numbers that the data set follows from: "version", "seed", the number of
            samples of each of `SPLITS`, and possibly others.
        class_names: the lines of classes.txt.
        write_split: writes the files of a split into the folder that it gets.

    Raises:
        InputError: `folder` is a file or a link, or holds files that were not generated.
        OSError: `folder` cannot be written.
    """
    folder = Path(os.path.abspath(os.path.expanduser(folder)))  # a link stays a link
    if _read_recipe(folder)[0] == recipe:
        return
    _check_replaceable(name, folder)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        for split in SPLITS:
            write_split(temporary, split)
        (temporary / "classes.txt").write_text("".join(f"{name}\n" for name in class_names))
        files = {file: _checksum(temporary / file) for file in _files_in(temporary)}
        (temporary / RECIPE).write_text(json.dumps({**recipe, "files": files}))
        _move_into_place(name, temporary, folder, recipe)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def generated_folder(name: str, generate: Callable[[Path], None]) -> Path:
    """Generate a registered data set, and return its folder.

    This is the folder `name` below the root of the data sets, or below "datasets" if the root
    cannot be written.

    Args:
        generate: generates the data set in the folder that it gets.

    Raises:
        InputError: no place to write the data set to.
    """
    folder, fallback = Path(datasets.root()) / name, Path("datasets") / name
    try:
        generate(folder)
        return folder
    except OSError as error:
        reason = error
    try:
        generate(fallback)
    except OSError as error:
        raise InputError(
            f"The generated data set {name} cannot be written to {folder} ({reason}), and also not "
            f"to {fallback.resolve()} ({error}). {datasets.describe_root()}: set it to a folder "
            "that can be written to."
        ) from error
    logger.warning(f"{folder} cannot be written ({reason}): {name} is at {fallback.resolve()}.")
    return fallback


def check_split(name: str, split: str) -> None:
    """Raise InputError unless a data set has a split."""
    if split not in SPLITS:
        raise InputError(
            f'{name} has no split "{split}".{nearest(split, SPLITS)} There are: '
            f"{', '.join(SPLITS)}."
        )


def random_numbers(seed: int, split: str, stream: int) -> np.random.Generator:
    """Return the generator for a sample of a split (stream: its index + 1), or for its plan (0)."""
    return np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), stream]))


def samples_with(share: float, at_least: int, number: int, generator: np.random.Generator) -> list:
    """Choose which of `number` samples show a class: a share of them, but not too few.

    Returns:
        indices, as many as the share gives, and at least `at_least` if there are so many samples.
    """
    order = np.argsort(generator.random(number), kind="stable")
    return order[: max(at_least, round(share * number))].tolist()


def _read_recipe(folder: Path) -> tuple[dict | None, dict[str, str]]:
    """Return the recipe of the data set in `folder`, and the checksum of each of its files.

    The recipe is None if the folder records none of ours. Earlier versions recorded no checksums.
    """
    try:
        recipe = json.loads((folder / RECIPE).read_text())
    except (OSError, ValueError, RecursionError):
        return None, {}
    files = recipe.pop("files", {}) if isinstance(recipe, dict) else None
    is_ours = isinstance(files, dict) and recipe.keys() >= {"version", "seed", *SPLITS}
    if is_ours and all(type(value) is int for value in recipe.values()):
        return recipe, files
    return None, {}


def _checksum(path: Path) -> str:
    """Return the SHA-256 of a file; "" for the empty folder of a split without samples."""
    return sha256(path) if path.is_file() else ""


def _check_replaceable(name: str, folder: Path) -> None:
    """Raise InputError unless `folder` is absent, empty, or holds a generated data set alone."""
    while os.path.lexists(folder):
        try:
            looked_at, reason = folder.lstat().st_ino, _reason_to_keep(folder)
            if folder.lstat().st_ino != looked_at:
                continue
        except FileNotFoundError:  # another process replaces it: look again
            continue
        if reason is None:
            return
        raise InputError(
            f"{name} cannot be generated in {folder}, because {reason}. Choose another folder (for "
            "the registered data set, through DETECTRON2_DATASETS), or move this one away."
        )


def _reason_to_keep(folder: Path) -> str | None:
    """Return why the existing `folder` must not be replaced; None if it may be."""
    if folder.is_symlink():
        return "it is a link"
    if folder.is_file():
        return "it is a file"
    found = _files_in(folder)
    if not found:
        return None
    recipe, generated = _read_recipe(folder)
    if recipe is None:
        return f"it holds files that were not generated, such as {found[0]}"
    if not generated:
        return "an earlier version generated it, without a checksum of each file"
    for name in found:
        path = folder / name
        if path.is_symlink() or (name not in generated and name != RECIPE):
            return f"{name} was not generated"
        if name != RECIPE and _checksum(path) != generated[name]:
            return f"{name} is not as it was generated"
    return None


def _files_in(folder: Path) -> list[str]:
    """Return the sorted paths below `folder` of all that is not a plain folder with content."""
    found = []
    for entry in os.scandir(folder):
        inside = _files_in(Path(entry)) if entry.is_dir(follow_symlinks=False) else []
        found += [f"{entry.name}/{name}" for name in inside] or [entry.name]
    return sorted(found)


def _move_into_place(name: str, temporary: Path, folder: Path, recipe: Mapping[str, int]) -> None:
    """Rename `temporary` to `folder`, in place of a data set of another recipe."""
    outdated = temporary.with_name(f"{temporary.name}.old")
    while _read_recipe(folder)[0] != recipe:  # another process may have been faster
        _check_replaceable(name, folder)  # again: files may have come while samples were written
        with suppress(FileNotFoundError):
            os.replace(folder, outdated)
            shutil.rmtree(outdated)
        try:
            os.replace(temporary, folder)
            return
        except OSError as error:
            # Another process put its folder there in between: check that folder.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
