"""Handle SIGTERM, by which a cluster announces that it takes a machine away."""

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
# Seconds that a waiting process may live after the signal. Many clusters kill it after that.
_LIMIT = 30.0
_IS_OVER = b"\0"  # no signal has this number
_LOOK = 0.5  # seconds between two checks of the clock and of the other processes


class Sigterm:
    """Receive SIGTERM, and end the process after a checkpoint or after a time limit.

    A process that waits for data or for another process too long ends without a checkpoint.
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
        """Handle the signal inside the block; outside, it ends the process at once.

        Every process has to enter the block. Only the main thread can handle signals.
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
            os.write(writer, _IS_OVER)  # closing is not enough: workers of loaders have a copy
            watcher.join()
            os.close(writer)
            os.close(reader)

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Raise SystemExit inside the block when the signal comes or has come.

        Does nothing with several processes: they must leave an iteration together.
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
        """Call `save` and end the program if any process receives the signal inside the block.

        With several processes, a thread does this, because main threads can wait for each other.
        No process leaves before process 0 has saved. The state that `save` reads must not change
        inside the block.

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
            if self._is_leaving:  # another process ended, which broke the connection
                thread.join()
            raise
        is_over.set()
        thread.join()  # does not return if the processes end

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """Suspend the time limit, for example while a checkpoint is written."""
        self._num_unlimited += 1
        try:
            yield
        finally:
            self._deadline = max(self._deadline, time.monotonic() + self._limit)
            self._num_unlimited -= 1

    def allow(self, seconds: float) -> None:
        """Raise the time limit to at least `seconds`."""
        self._limit = max(self._limit, seconds)

    def vote(self) -> tuple[torch.Tensor, distributed.Work]:
        """Start a vote: has any process received the signal?

        Returns:
            a scalar tensor (1: yes, 0: no), and the work to wait for before it is valid.
        """
        ballot = torch.tensor(int(self.is_received))
        work = distributed.all_reduce(
            ballot, distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return ballot, work

    def is_received_by_any(self) -> bool:
        """Return True if any process has received the signal; every process has to call it."""
        if self._group is None:
            return self.is_received
        ballot, work = self.vote()
        work.wait()
        return bool(ballot)

    def exit(self) -> None:
        """End the program with exit code 143."""
        sys.exit(EXIT_CODE)

    def _receive(self, signum, frame) -> None:
        self.is_received = True
        if self._interrupts:
            self._interrupts = False  # once, so that nothing interrupts the saving
            self.exit()

    def _watch(self, signals: int) -> None:
        """End the process when its time limit is over."""
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
                    f"SIGTERM received {self._limit:.0f} seconds ago, but the process still waits "
                    "for data or for another process. The iterations after the last checkpoint are "
                    "lost. --resume continues from that checkpoint"
                )
                _leave(EXIT_CODE)

    def _end_together(self, save: Callable[[], None], is_over: threading.Event) -> None:
        """End this process together with the others; return once `is_over` is set in all."""
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
        except RuntimeError:  # another process has ended: wait for the signal here
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
    """End the process from any of its threads."""
    for child in multiprocessing.active_children():
        if child.daemon:  # for example, a worker of a loader
            child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
