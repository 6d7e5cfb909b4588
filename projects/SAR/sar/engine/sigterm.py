"""SIGTERM, with which clusters announce that they take a machine away."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 128 + signal.SIGTERM


class Sigterm:
    """Whether the process was told to end. While `interrupts()`, that ends it at once."""

    def __init__(self) -> None:
        self.is_received = False
        self._interrupts = False

    @contextmanager
    def listening(self) -> Iterator["Sigterm"]:
        """Takes the signal, which would else end the process; nowhere but in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._receive)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Raises SystemExit in here when the signal comes, or has come."""
        self._interrupts = True
        try:
            if self.is_received:
                self.exit()
            yield
        finally:
            self._interrupts = False

    def exit(self) -> None:
        """Ends the program with the exit code that says why."""
        sys.exit(EXIT_CODE)

    def _receive(self, signum, frame) -> None:
        is_first, self.is_received = not self.is_received, True
        if is_first and self._interrupts:
            self.exit()
