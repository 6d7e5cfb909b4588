"""Keep results that take long to compute between runs, one JSON file for each.

The files lie in the cache folder of iopath and detectron2, ~/.torch/iopath_cache or $FVCORE_CACHE,
below sar/. They can be deleted at any time. A cache that cannot be read or written is not an error.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from iopath.common.file_io import get_cache_dir

from sar.files.atomic import write_atomically

logger = logging.getLogger(__name__)


def cache_path(kind: str, key: object) -> Path:
    """Return the file for the result of one computation.

    Args:
        kind: start of the file name.
        key: everything that the result depends on, as JSON can hold it.
    """
    digest = hashlib.sha256(json.dumps(key).encode(errors="surrogateescape"))
    return Path(get_cache_dir(), "sar", f"{kind}-{digest.hexdigest()[:32]}.json")


def load_cached(path: Path) -> Any | None:
    """Return the result in a file of the cache; None if there is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def store_cached(path: Path, result: object) -> None:
    """Write a result, as JSON can hold it, to a file of the cache."""
    try:
        write_atomically(path, json.dumps(result))
    except OSError as error:
        logger.debug(f"{path} was not written ({error.strerror})")


def states_of(files: Iterable[str]) -> str:
    """Return a checksum of the paths, sizes and times of change of files, which are not read.

    A missing file counts, too. 100,000 files take less than a second.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file))
        with suppress(OSError):
            status = os.stat(file)
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
        digest.update(b"\n")
    return digest.hexdigest()
