"""Report the failures of a loader's worker processes with one message.

PyTorch does not handle three failures well. If a worker cannot pass on a batch, a thread of the
worker prints a traceback, and the main process waits forever. If a worker is killed, a signal
handler raises an error at any place in the main process. If a worker hangs, it outlives the main
process.
"""

import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler

from torch.utils.data import DataLoader, get_worker_info

from sar.errors import InputError

_SHARED_MEMORY = "/dev/shm"
_PARENT_CHECK = 5.0  # seconds until a worker notices that its parent was killed


class WatchedLoader(DataLoader):
    """PyTorch's DataLoader, which yields each batch as the list of its samples.

    Takes the arguments of DataLoader, except `collate_fn` and `worker_init_fn`.

    Raises:
        InputError: while iterating, if workers cannot start, if one of them cannot pass on a batch,
            or if one of them is killed.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(
            *args, collate_fn=_pack, worker_init_fn=_take_sigterm_from_parent, **kwargs
        )

    def __iter__(self) -> Iterator[list]:
        batches = self._start_workers()
        workers = getattr(batches, "_workers", [])  # PyTorch has no public name for them
        try:
            while True:
                with _watched(workers):
                    batch = next(batches, None)
                if batch is None:
                    return
                if isinstance(batch, InputError):
                    raise batch
                yield batch
        except GeneratorExit:  # the caller wants no more batches
            raise
        except BaseException as error:
            if isinstance(error, (ConnectionError, EOFError)):  # a worker is about to end
                ended = wait([worker.sentinel for worker in workers], timeout=5)
                for worker in workers:
                    if worker.sentinel in ended:  # its files are closed, its exit code comes later
                        worker.join(timeout=5)
            explanation = _explain_end(workers) or _explain(error)
            _kill(workers)
            if isinstance(error, Exception) and not isinstance(error, InputError) and explanation:
                raise explanation from error
            raise
        finally:
            batches = None  # or the traceback of an error would keep it and the workers

    def _start_workers(self) -> Iterator[list]:
        try:
            if self.num_workers:
                # A test: PyTorch adds a traceback if a queue cannot be created.
                multiprocessing.Queue()
            # PyTorch's handler of SIGCHLD could raise an error anywhere. `_watched` sets another.
            with _sigterm_blocked(), _handler_kept(signal.SIGCHLD):
                return super().__iter__()
        except (OSError, RuntimeError) as error:
            raise _explain(error) or InputError(
                f"the {self.num_workers} worker processes of the data loader cannot start "
                f"({error}): free memory, or lower DATALOADER.NUM_WORKERS"
            ) from error


class _Packed:
    """Samples that are already pickled. Unpickling gives the list of samples."""

    def __init__(self, samples: list) -> None:
        self._data = bytes(ForkingPickler.dumps(samples))

    def __reduce__(self) -> tuple[Callable, tuple[bytes]]:
        return pickle.loads, (self._data,)


def _pack(samples: list) -> list | _Packed | InputError:
    """Return the samples; in a worker, with their tensors in shared memory.

    If PyTorch pickled them, the worker would not see an error. An InputError is returned as a
    value, because PyTorch would add a traceback to its message.
    """
    if get_worker_info() is None:
        return samples
    try:
        return _Packed(samples)
    except Exception as error:
        explanation = _explain(error)
        if explanation is None:
            raise
        return explanation


@contextmanager
def _watched(workers: list[BaseProcess]) -> Iterator[None]:
    """Raise InputError in the `with` block as soon as a worker is killed, or if one was before."""
    if not workers or threading.current_thread() is not threading.main_thread():
        yield  # in other threads, PyTorch checks the workers every few seconds
        return

    def require_alive(*_) -> None:
        if error := _explain_end(workers):
            raise error

    with _handler_kept(signal.SIGCHLD):
        signal.signal(signal.SIGCHLD, require_alive)
        require_alive()
        yield


@contextmanager
def _handler_kept(number: signal.Signals) -> Iterator[None]:
    """Restore the present handler of a signal afterwards (in the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, before)


def _kill(workers: list[BaseProcess]) -> None:
    """End the workers at once. PyTorch would wait five seconds for each hanging worker."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(timeout=1)


def _explain_end(workers: list[BaseProcess]) -> InputError | None:
    """Return how the first failed worker ended; None if no worker failed."""
    code = next((each.exitcode for each in workers if each.exitcode not in (None, 0)), None)
    if code is None:
        return None
    if code == -signal.SIGBUS:
        return _shared_memory_error("SIGBUS")
    how = f"has ended with exit code {code}"
    if code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        how += ", probably because memory ran out"
    return InputError(
        f"a worker process of the data loader {how}: lower DATALOADER.NUM_WORKERS, which is "
        f"{len(workers)}. --resume continues a training from its last checkpoint"
    )


def _explain(error: BaseException) -> InputError | None:
    """Return the advice for an error of the operating system; None for other errors."""
    lines = str(error).strip().splitlines()
    reason = lines[-1] if lines else type(error).__name__
    signs = ("No space left on device", "shared memory", "unable to write to file </")
    if any(sign in str(error) for sign in signs):
        return _shared_memory_error(reason)
    if any(sign in str(error) for sign in ("Too many open files", "of ancdata")):
        return InputError(
            f"the data loader has too many files open ({reason}): raise the limit with "
            "`ulimit -n 65536`, or lower DATALOADER.NUM_WORKERS"
        )
    return None


def _shared_memory_error(reason: str) -> InputError:
    space = ""
    if os.path.isdir(_SHARED_MEMORY):
        usage = shutil.disk_usage(_SHARED_MEMORY)
        space = f" ({usage.total / 2**20:.0f} MiB, {usage.free / 2**20:.0f} free)"
    return InputError(
        f"a worker process of the data loader has no room in {_SHARED_MEMORY}{space} ({reason}). "
        "Start Docker with --shm-size=8g, or set DATALOADER.NUM_WORKERS 0 or a smaller "
        "SOLVER.IMS_PER_BATCH. --resume continues a training from its last checkpoint"
    )


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Block SIGTERM in processes and threads that start in the `with` block.

    Libraries start threads in a worker before `_take_sigterm_from_parent` could block the signal.
    """
    if not hasattr(signal, "sigtimedwait"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _take_sigterm_from_parent(worker_id: int) -> None:
    """Let a worker end only at the SIGTERM of its parent, or after its parent.

    Clusters send SIGTERM to every process while the trainer must still make a step. macOS does not
    tell the sender of a signal, so workers end at every SIGTERM there.
    """
    if not hasattr(signal, "sigtimedwait"):
        return
    signal.set_wakeup_fd(-1)  # it belongs to the parent
    parent = multiprocessing.parent_process().pid

    def end_with_parent() -> None:
        while os.getppid() == parent:
            received = signal.sigtimedwait({signal.SIGTERM}, _PARENT_CHECK)
            if received is not None and received.si_pid == parent:
                break
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
