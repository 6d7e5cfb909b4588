"""What the programs tools/prepare_*.py share: a download in, a registered data set out.

They write into the download, but only files that are missing: no file that is there is replaced or
deleted, so they need no --overwrite. A program that was stopped goes on where it was. Every file
has its name only when it is whole.
"""

import argparse
import logging
import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from sar import cli
from sar.data.labels import read_label
from sar.errors import InputError, listed
from sar.files.atomic import atomic_path
from sar.files.program_outputs import NO_ROOM

logger = logging.getLogger(__name__)

Source = TypeVar("Source")

_NUM_NAMED = 3  # files that an error message names


def run(prepare: Callable[..., None], args: argparse.Namespace) -> int:
    """Calls `prepare(folder, threads, quiet=quiet)` of a parsed command line; the exit code."""
    return cli.run(
        lambda args: prepare(args.folder, args.threads, quiet=args.quiet),
        args,
        when_stopped="Run it again to go on: what is done is kept.",
    )


def list_files(folder: Path, pattern: str, remedy: str) -> list[Path]:
    """The files under `folder` that match, sorted; none whose name starts with a dot.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. {remedy}")
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def check_count(files: Collection, expected: int, what: str, remedy: str) -> None:
    """Raises InputError unless there are as many files as the data set has."""
    if len(files) != expected:
        difference = len(files) - expected
        raise InputError(
            f"{what}: {len(files)} found, {expected} expected "
            f"({abs(difference)} {'missing' if difference < 0 else 'too many'}). {remedy}"
        )


def check_there(paths: Collection[Path], what: str, remedy: str) -> None:
    """Raises InputError, with the first paths, unless all files are there."""
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
    """Writes every target that is not there yet, in threads, with a progress bar unless `quiet`.

    Args:
        convert: called with a source and the target to write, atomically.
        sources: what each target is made of.
        desc: what stands before the bar.
        threads: how many files are under way at once.

    Raises:
        InputError: a source is wrong or a target cannot be written (the others are converted all
            the same), or the disk is full (which stops it).
    """
    # A link that leads nowhere is there, too.
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
            f"{len(failures)} of {len(sources)} files could not be converted; run it again when "
            "they are mended:",
            *(f"  {failure}" for failure in failures[:_NUM_NAMED]),
        )


def relabel(path: Path, new_ids: Mapping[int, int]) -> np.ndarray:
    """Reads a label map of 8 bits and replaces its ids.

    Args:
        path: a label map.
        new_ids: the new id, at most 255, of every id that there may be.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: the file cannot be read or has an id that is not in `new_ids`.
    """
    ids = read_label(path)
    counts = np.bincount(ids.ravel(), minlength=1)
    unknown = [int(i) for i in np.flatnonzero(counts) if int(i) not in new_ids]
    if unknown:
        raise InputError(
            f"{path} has the ids {listed(unknown)} "
            f"({counts[unknown].sum()} pixels), which the official labels do not have: "
            "download it again."
        )
    table = np.zeros(max(*new_ids, len(counts) - 1) + 1, np.uint8)
    table[list(new_ids)] = list(new_ids.values())
    return table[ids]


def write_label(ids: np.ndarray, path: Path) -> None:
    """Writes (H, W) uint8 or uint16 ids as a PNG of one channel."""
    with atomic_path(path) as temporary:
        Image.fromarray(ids).save(temporary)
