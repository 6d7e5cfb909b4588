"""Shared parts of the programs tools/prepare_*.py, which turn a download into a data set.

They write only missing files, and never replace or delete a file. So they need no --overwrite, and
a stopped program can continue. tools/import_dataset.py uses `convert_missing` and `write_label`,
too.
"""

import argparse
import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from sar import cli
from sar.data.datasets.class_file import read_class_file
from sar.data.label_files import read_label
from sar.errors import InputError, listed
from sar.files.atomic import atomic_path, write_atomically
from sar.files.disk import NO_ROOM

logger = logging.getLogger(__name__)

Source = TypeVar("Source")

_NUM_NAMED = 3  # files that an error message names


def run(prepare: Callable[..., None], args: argparse.Namespace) -> int:
    """Call `prepare(folder, threads, quiet=quiet)` and return the exit code."""
    return cli.run(
        lambda args: prepare(args.folder, args.threads, quiet=args.quiet),
        args,
        when_stopped="Run it again to continue: finished files are kept.",
    )


def list_files(folder: Path, pattern: str, remedy: str) -> list[Path]:
    """Return the sorted files below `folder` that match, without hidden ones.

    Raises:
        InputError: the folder is missing.
    """
    if not folder.is_dir():
        raise InputError(f"Folder not found: {folder}. {remedy}")
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def check_count(files: Collection, expected: int, what: str, remedy: str) -> None:
    """Raise InputError unless the number of files is `expected`."""
    if len(files) != expected:
        difference = len(files) - expected
        raise InputError(
            f"{what}: {len(files)} found, {expected} expected "
            f"({abs(difference)} {'missing' if difference < 0 else 'too many'}). {remedy}"
        )


def check_there(paths: Collection[Path], what: str, remedy: str) -> None:
    """Raise InputError, which names the first missing paths, unless all files exist."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(paths)} {what} are missing: "
            f"{listed(missing, _NUM_NAMED)}. {remedy}"
        )


def convert_missing(
    convert: Callable[[Source, Path], None],
    sources: Mapping[Path, Source],
    *,
    desc: str,
    threads: int,
    quiet: bool,
) -> None:
    """Write all missing targets, in threads, with a progress bar unless `quiet`.

    Args:
        convert: called with a source and a target; writes the target atomically.
        sources: the source of each target.
        desc: the text before the progress bar.
        threads: number of files that are converted at the same time.

    Raises:
        InputError: some sources are wrong or some targets cannot be written, after the others were
            converted. A full disk stops the conversion.
    """
    # lexists, because a broken link must not be replaced either.
    missing = {to: source for to, source in sources.items() if not os.path.lexists(to)}
    num_done = len(sources) - len(missing)
    logger.info("%s: %d of %d files are there already", desc, num_done, len(sources))
    failures = []
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(sources), initial=num_done, desc=desc, disable=quiet) as bar,
    ):
        futures = {pool.submit(convert, source, to): to for to, source in missing.items()}
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except InputError as error:
                    failures.append(str(error))
                except OSError as error:
                    if error.errno in NO_ROOM:
                        raise
                    failures.append(f"{futures[future]} cannot be written ({error})")
                bar.update()
        except OSError as error:
            pool.shutdown(cancel_futures=True)
            raise InputError(
                f"{futures[future]} cannot be written ({error}): make room, and run it again."
            ) from error
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    if failures:
        raise InputError(
            f"{len(failures)} of {len(sources)} files could not be converted. Repair them and run "
            "the program again:",
            *(f"  {failure}" for failure in failures[:_NUM_NAMED]),
        )


def relabel(path: Path, new_ids: Mapping[int, int]) -> np.ndarray:
    """Read a label map of 8 bits and replace its ids.

    Args:
        path: a label map.
        new_ids: the new id (at most 255) of each id that is allowed.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: the file cannot be read or has an id that is not in `new_ids`.
    """
    return replace_ids(read_label(path), new_ids, path, "pixels")


def replace_ids(ids: np.ndarray, new_ids: Mapping[int, int], path: Path, unit: str) -> np.ndarray:
    """Replace the ids of a label.

    Args:
        ids: integers from 0 to 65535, of any shape.
        new_ids: the new id (at most 255) of each id that is allowed.
        path: the file of the ids, for the error.
        unit: "pixels" or "points", for the error.

    Returns:
        uint8, with the shape of `ids`.

    Raises:
        InputError: an id is not in `new_ids`.
    """
    counts = np.bincount(ids.ravel(), minlength=1)
    unknown = [int(i) for i in np.flatnonzero(counts) if int(i) not in new_ids]
    if unknown:
        raise InputError(
            f"{path} has the ids {listed(unknown)} "
            f"({counts[unknown].sum()} {unit}), which the official labels do not have: "
            "download it again."
        )
    table = np.zeros(max(*new_ids, len(counts) - 1) + 1, np.uint8)
    table[list(new_ids)] = list(new_ids.values())
    return table[ids]


def write_label(ids: np.ndarray, path: Path) -> None:
    """Write (H, W) uint8 or uint16 ids as a PNG with one channel."""
    with atomic_path(path) as temporary:
        Image.fromarray(ids).save(temporary)


def write_cloud(path: Path, **arrays: np.ndarray) -> None:
    """Write the arrays of a point cloud as an uncompressed NPZ, which is fast to read.

    Args:
        arrays: xyz (N, 3); if they exist, color (N, 3) uint8, normal (N, 3), label (N,).
    """
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def write_classes(folder: Path, names: Iterable[str]) -> None:
    """Write classes.txt, a name per line. If it exists, it stays, with the user's colours.

    Raises:
        InputError: the file exists with other classes, or cannot be read.
    """
    path, names = folder / "classes.txt", list(names)
    if not os.path.lexists(path):
        write_atomically(path, "".join(f"{name}\n" for name in names))
    elif [name for name, _ in read_class_file(path)] != names:
        raise InputError(
            f"{path} has other classes than the clouds that this program writes: move the file "
            "away, or give another folder with --output."
        )


def write_groups(folder: Path, groups: Mapping[str, Iterable[str]]) -> None:
    """Write groups.json, the names of the classes of each group.

    If it exists, it stays: its groups may be the user's, and the clouds do not depend on them.
    """
    path = folder / "groups.json"
    content = {group: list(names) for group, names in groups.items()}
    text = json.dumps(content, indent=1) + "\n"
    if not os.path.lexists(path):
        write_atomically(path, text)
    elif path.read_bytes() != text.encode():
        logger.info("%s stays: it has other groups than this program would write", path)


def link(source: Path, target: Path) -> None:
    """Make `target` a relative link to `source`, so that both can be moved together."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()))
