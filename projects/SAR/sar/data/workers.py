"""Worker processes of a loader, whose failures end the wait for their batches with one message.

PyTorch leaves three failures to chance. If a worker cannot pass on a batch, a thread of the worker
prints a traceback, and the main process waits forever. If a worker is killed, a signal handler
raises an error wherever the main process is at that moment. If a worker hangs, it outlives the
main process.
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

    Takes the arguments of DataLoader, but for `collate_fn` and `worker_init_fn`.

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
            if isinstance(error, (ConnectionError, EOFError)):  # of a worker that is about to end
                wait([worker.sentinel for worker in workers], timeout=5)
            explanation = _explain_end(workers) or _explain(error)
            _kill(workers)
            if isinstance(error, Exception) and not isinstance(error, InputError) and explanation:
                raise explanation from error
            raise
        finally:
            batches = None  # an error's traceback would keep it, and the workers with it

    def _start_workers(self) -> Iterator[list]:
        try:
            if self.num_workers:
                # If there is no room for a queue, PyTorch's own attempt adds a traceback.
                multiprocessing.Queue()
            # PyTorch's handler of SIGCHLD would raise an error anywhere; `_watched` has its own.
            with _sigterm_blocked(), _handler_kept(signal.SIGCHLD):
                return super().__iter__()
        except (OSError, RuntimeError) as error:
            raise _explain(error) or InputError(
                f"the {self.num_workers} worker processes of the data loader cannot start "
                f"({error}): free memory, or lower DATALOADER.NUM_WORKERS"
            ) from error


class _Packed:
    """Samples that are pickled already: whoever unpickles them gets the list of samples."""

    def __init__(self, samples: list) -> None:
        self._data = bytes(ForkingPickler.dumps(samples))

    def __reduce__(self) -> tuple[Callable, tuple[bytes]]:
        return pickle.loads, (self._data,)


def _pack(samples: list) -> list | _Packed | InputError:
    """The samples; in a worker, with their tensors in shared memory.

    A worker that leaves the pickling to PyTorch never hears of an error in it. An InputError is a
    value here, since PyTorch would add a traceback to its message.
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
    """Raises InputError in here as soon as one of the workers is killed, or if one was before."""
    if not workers or threading.current_thread() is not threading.main_thread():
        yield  # in other threads, PyTorch looks after the workers every few seconds
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
    """Gives the signal the handler back that it has now; only the main thread can set one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, before)


def _kill(workers: list[BaseProcess]) -> None:
    """Ends the workers at once: PyTorch would wait five seconds for each that hangs."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(timeout=1)


def _explain_end(workers: list[BaseProcess]) -> InputError | None:
    """How the first worker that failed has ended; None if none has failed."""
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
    """What the user can do about an error of the operating system; None for any other error."""
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
        space = f", which has {usage.total / 2**20:.0f} MiB, of which {usage.free / 2**20:.0f} free"
    return InputError(
        f"a worker process of the data loader has no room in {_SHARED_MEMORY}{space} ({reason}). "
        "Start Docker with --shm-size=8g, or set DATALOADER.NUM_WORKERS 0 or a smaller "
        "SOLVER.IMS_PER_BATCH. --resume continues a training from its last checkpoint"
    )


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Starts processes and threads in which SIGTERM is blocked.

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
    """Lets a worker heed only the SIGTERM of its parent, and end after its parent.

    Clusters send SIGTERM to every process when the trainer still has a step to make. macOS cannot
    tell who sent a signal: workers heed all of them there.
    """
    if not hasattr(signal, "sigtimedwait"):
        return
    signal.set_wakeup_fd(-1)  # it is the parent's
    parent = multiprocessing.parent_process().pid

    def heed() -> None:
        while os.getppid() == parent:
            received = signal.sigtimedwait({signal.SIGTERM}, _PARENT_CHECK)
            if received is not None and received.si_pid == parent:
                break
        os._exit(0)

    threading.Thread(target=heed, daemon=True).start()
