"""SIGTERM, with which clusters announce that they take a machine away."""

import logging
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import distributed

from sar.errors import InputError

from detectron2.utils import comm

logger = logging.getLogger(__name__)

EXIT_CODE = 128 + signal.SIGTERM
# Seconds from the signal to the end of a process that waits: clusters often kill it then.
_LIMIT = 30.0
_IS_OVER = b"\0"  # no number of a signal
_LOOK = 0.5  # seconds between two looks at the clock, or at the other processes


class Sigterm:
    """Whether the process was told to end, and what it may still do until then.

    A process that cannot save a checkpoint within a time limit, because it waits for data or for
    another process, ends without it.
    """

    def __init__(self) -> None:
        self.is_received = False
        self._interrupts = False
        self._is_leaving = False
        self._limit = _LIMIT
        self._num_unlimited = 0
        self._deadline = float("inf")
        self._group: distributed.ProcessGroup | None = None

    @contextmanager
    def listening(self) -> Iterator["Sigterm"]:
        """Takes the signal, which would otherwise end the process; only in the main thread.

        Every process has to call it at the same time.
        """
        if comm.get_world_size() > 1:
            self._group = distributed.new_group(backend="gloo")
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.signal(signal.SIGTERM, self._receive)
        # Python runs no handler while the main thread waits for another process.
        fd_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        watcher.start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(fd_before)
            signal.signal(signal.SIGTERM, before)
            os.write(writer, _IS_OVER)  # to close it is not enough: workers of loaders have a copy
            watcher.join()
            os.close(writer)
            os.close(reader)

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Raises SystemExit in here when the signal comes, or has come.

        Not with several processes, which may leave an iteration only together.
        """
        self._interrupts = comm.get_world_size() == 1
        try:
            if self.is_received and self._interrupts:
                self.exit()
            yield
        finally:
            self._interrupts = False

    @contextmanager
    def ends(self, save: Callable[[], None]) -> Iterator[None]:
        """Calls `save` and ends the program in here when the signal comes to any process.

        With several processes, a thread does so: the main thread may wait for another process,
        which waits for it. No process leaves before the first one has saved. The state that `save`
        reads must not change in here.

        Raises:
            SystemExit: in a single process.
        """
        if comm.get_world_size() == 1:
            try:
                with self.interrupts():
                    yield
            except SystemExit:
                save()
                raise
            return
        is_over = threading.Event()
        thread = threading.Thread(target=self._end_together, args=(save, is_over), daemon=True)
        thread.start()
        try:
            yield
        except Exception:
            is_over.set()
            if self._is_leaving:  # the error is the end of another process
                thread.join()
            raise
        is_over.set()
        thread.join()  # does not return if the processes end

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """Suspends the time limit, as while a checkpoint is written."""
        self._num_unlimited += 1
        try:
            yield
        finally:
            self._deadline = max(self._deadline, time.monotonic() + self._limit)
            self._num_unlimited -= 1

    def allow(self, seconds: float) -> None:
        """Raises the time limit to so many seconds, if it is lower."""
        self._limit = max(self._limit, seconds)

    def vote(self) -> tuple[torch.Tensor, distributed.Work]:
        """Starts to find out whether any process has received the signal.

        Returns:
            an array that is 1 if one has, 0 otherwise, and what to wait for until it is valid.
        """
        ballot = torch.tensor(int(self.is_received))
        work = distributed.all_reduce(
            ballot, distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return ballot, work

    def is_received_by_any(self) -> bool:
        """Whether any process has received the signal; every process has to call it."""
        if self._group is None:
            return self.is_received
        ballot, work = self.vote()
        work.wait()
        return bool(ballot)

    def exit(self) -> None:
        """Ends the program with the exit code that says why."""
        sys.exit(EXIT_CODE)

    def _receive(self, signum, frame) -> None:
        self.is_received = True
        if self._interrupts:
            self._interrupts = False  # once: nothing disturbs the saving
            self.exit()

    def _watch(self, signals: int) -> None:
        """Ends the process when its time is up."""
        while True:
            if select.select([signals], [], [], _LOOK)[0]:
                number = os.read(signals, 1)
                if number == _IS_OVER:
                    return
                if number[0] == signal.SIGTERM and self._deadline == float("inf"):
                    self.is_received = True
                    self._deadline = time.monotonic() + self._limit
            if time.monotonic() > self._deadline and not self._num_unlimited:
                logger.error(
                    f"Told to end (SIGTERM), but {self._limit:.0f} seconds later the process still "
                    "waits for data or for another process. The iterations after the last "
                    "checkpoint are lost. --resume continues from that checkpoint"
                )
                _leave(EXIT_CODE)

    def _end_together(self, save: Callable[[], None], is_over: threading.Event) -> None:
        """Ends this process together with the others; returns once `is_over` is set in all."""
        try:
            while True:
                ballot = torch.tensor([int(self.is_received), int(not is_over.is_set())])
                distributed.all_reduce(ballot, distributed.ReduceOp.MAX, group=self._group)
                is_received, is_going_on = ballot.tolist()
                if is_received:
                    break
                if not is_going_on:
                    return
                is_over.wait(_LOOK)
        except RuntimeError:  # another process has ended: this one ends when it is told to
            while not self.is_received:
                if is_over.wait(_LOOK):
                    return
            _leave(EXIT_CODE)
        self._is_leaving = True
        try:
            save()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            _leave(1)
        with suppress(RuntimeError):  # another process has ended
            distributed.all_reduce(torch.zeros(1), group=self._group)
        _leave(EXIT_CODE)


def _leave(code: int) -> None:
    """Ends the process, from any of its threads."""
    for child in multiprocessing.active_children():
        if child.daemon:  # such as a worker of a loader
            child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
