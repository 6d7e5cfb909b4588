"""Errors of disks, as messages to the user."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from sar.errors import InputError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}  # no further file can be written
_DISK_ERRORS = NO_ROOM | {
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
}


@contextmanager
def writing_to(folder: str) -> Iterator[None]:
    """Turn an error of the disk that holds `folder` into a message.

    Raises:
        InputError: a file cannot be written (a full disk, a quota, a read-only file system), or
            `folder` was removed.
    """
    try:
        yield
    except OSError as error:
        require_folder(folder)
        if error.errno not in _DISK_ERRORS:
            raise
        raise disk_error(error.filename or folder, error) from error


def require_folder(folder: str, file: str = "") -> None:
    """Raise InputError if `folder`, or a file that the run has written into it, was removed."""
    if not os.path.exists(os.path.join(folder, file)):
        missing = os.path.join(folder, file) if os.path.isdir(folder) else f"OUTPUT_DIR {folder}"
        raise InputError(
            f"{missing} was removed during the run. Put the folder back and continue with "
            "--resume, or start again"
        )


def disk_error(path: str, error: OSError) -> InputError:
    """Return the message for a file or folder that cannot be written."""
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    space = ""
    if os.path.isdir(folder):
        space = f"; {shutil.disk_usage(folder).free / 2**20:.0f} MiB are free there"
    reason = error.strerror or error
    return InputError(
        f"{path} cannot be written ({reason}){space}. Make room, or make the folder writable. A "
        "training continues from its last checkpoint with --resume"
    )
