"""Lock an output folder, so that only one training or comparison at a time writes to it.

The operating system drops the lock when the process ends, so no lock must be removed by hand. The
lock also works between machines, if the file system supports locks.
"""

import atexit
import datetime
import fcntl
import json
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

from sar.errors import InputError
from sar.files.run_folder import LOCK

logger = logging.getLogger(__name__)

_held: dict[Path, int] = {}  # file descriptors of this process
_created: list[Path] = []


def create(folder: str | os.PathLike) -> None:
    """Create a folder if it is missing. `release` removes it if it is still empty then.

    Raises:
        OSError: it cannot be created.
    """
    folder = Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
        _created.append(folder)
    except FileExistsError:  # maybe just now, by the run's process on another machine
        if not folder.is_dir():
            raise


def hold(folder: str | os.PathLike, name: str = "OUTPUT_DIR") -> None:
    """Lock a folder for this process until it ends or calls `release`.

    Args:
        name: how messages call the folder.

    Raises:
        InputError: another process holds the lock. The message names its host and number.
    """
    path = Path(os.path.realpath(folder), LOCK)
    if path in _held:
        return
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # Not flock: the workers of a loader would keep such a lock after this process ends.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            raise InputError(
                f"{name} {folder} is in use: {_describe(path)}. Wait until it ends, or choose "
                f"another {name}."
            ) from None
        except OSError as error:
            os.close(descriptor)
            logger.warning(
                f"{name} {folder} cannot be locked ({error.strerror}): make sure that no other "
                "process writes there"
            )
            return
        with suppress(OSError):  # another process may have released and removed the file in between
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                break
        os.close(descriptor)
    owner = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(owner).encode())
    _held[path] = descriptor


def release() -> None:
    """Release all locks of this process, and remove folders of `create` that stayed empty."""
    while _held:
        path, descriptor = _held.popitem()
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)
    while _created:
        with suppress(OSError):  # not empty
            _created.pop().rmdir()


atexit.register(release)


def _describe(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['process']} on host {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"the process that holds {path}"
