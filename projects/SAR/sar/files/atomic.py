"""Write files so that a crash leaves the old file or the new one, never half a file.

Also names and checksums of files.
"""

import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# Short, because the name of the file itself may have the greatest length that is allowed.
_TEMPORARY_NAME = re.compile(r"\.sar-tmp-[0-9a-f]{8}(\.[^.]*)?")


@contextmanager
def atomic_path(path: str | os.PathLike, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to `path` (same suffix, folder created); rename it on success.

    With `sync`, a loss of power also leaves the old file or the new one: the content reaches the
    disk before the name points to it. This takes time for each file, so avoid it for thousands of
    files that can be made again.

    Example::

        with atomic_path("output/figure.png") as temporary:
            image.save(temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".sar-tmp-{uuid.uuid4().hex[:8]}{path.suffix[:16]}")
    with _in_use(temporary):
        try:
            yield temporary
            if sync:
                _sync(temporary)
            os.replace(temporary, path)
            if sync:
                with suppress(OSError):  # some network file systems cannot fsync folders
                    _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, data: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path` through a temporary file next to it."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 checksum of a file, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def names_below_common_folder(paths: Sequence[str]) -> list[str]:
    """Return each path below the folder that all share, so that all names differ."""
    paths = [os.path.abspath(path) for path in paths]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, folder) for path in paths]


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Delete temporary files in `folder` whose writers were killed.

    A file whose writer still runs stays, because the writer holds a lock on it.
    """
    for path in Path(folder).glob(".*"):
        if _TEMPORARY_NAME.fullmatch(path.name) and not _is_locked(path):
            path.unlink(missing_ok=True)


@contextmanager
def _in_use(path: Path) -> Iterator[None]:
    """Create the file and lock it, so that `remove_leftovers` knows that its writer still runs."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
