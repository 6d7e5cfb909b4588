"""Log files that can no longer be written."""

import logging
import os
import sys

from sar.files.disk import disk_error


def fail_once(handler: logging.StreamHandler) -> None:
    """Ends the run with one message if the handler cannot write its file.

    By default, `logging` prints a traceback for each record from then on. A console that cannot be
    written, such as a closed pipe, is given up without a word: the file has everything.
    """
    handle_error = handler.handleError

    def handle(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            handle_error(record)
            return
        # What is buffered would fail again, at the latest when Python closes the stream.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, handler.stream.fileno())
        os.close(null)
        if handler.stream is not sys.stdout:
            raise disk_error(handler.stream.name, error) from error

    handler.handleError = handle
