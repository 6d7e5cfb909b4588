"""Handle log files that can no longer be written."""

import logging
import sys

from sar.cli import discard
from sar.files.disk import disk_error


def fail_once(handler: logging.StreamHandler) -> None:
    """Make a handler raise one InputError if it cannot write its file.

    By default, `logging` prints a traceback for every later record. If the console cannot be
    written (a closed pipe), its output is discarded silently: the file has everything.
    """
    handle_error = handler.handleError

    def handle(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            handle_error(record)
            return
        discard(handler.stream)
        if handler.stream is not sys.stdout:
            raise disk_error(handler.stream.name, error) from error

    handler.handleError = handle
