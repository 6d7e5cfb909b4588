"""Writing files so that a crash leaves the old file or the new one, never half of either; their
names."""

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY_NAME = re.compile(r"\..+\.tmp-[0-9a-f]{8}(\.[^.]*)?")


@contextmanager
def atomic_path(path: str | os.PathLike, *, sync: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `path` (same suffix, folder created); renames it on success.

    With `sync` the content is on the disk before the name points to it, so that a loss of power,
    too, leaves the old file or the new one. It takes its time, file by file: not worth it where
    there are thousands that can be made again.

    Example::

        with atomic_path("output/figure.png") as temporary:
            image.save(temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        if sync:
            _sync(temporary)
        os.replace(temporary, path)
        if sync:
            with suppress(OSError):  # of folders, some network file systems know no fsync
                _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, data: str | bytes) -> None:
    """Writes text (UTF-8) or bytes to `path` through a temporary file beside it."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def names_below_common_folder(paths: Sequence[str]) -> list[str]:
    """Each path below the folder that all share: files of one name may lie in several folders."""
    paths = [os.path.abspath(path) for path in paths]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, folder) for path in paths]


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Deletes the temporary files in `folder` of processes that were killed while writing."""
    for path in Path(folder).glob(".*"):
        if _TEMPORARY_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
