"""Runs the command-line programs in forks of a process that has imported all they need.

To start Python and import torch takes seconds, a fork milliseconds. The parent must never start a
thread: it imports, forks and waits.
"""

import atexit
import ctypes
import os
import resource
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# What a process may have: so that a config that asks for terabytes fails at once.
MEMORY = 12 * 2**30
# Capabilities of root: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, and of capget the version.
_RIGHTS, _CAPABILITY_VERSION = 0b110, 0x20080522


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        code: the exit code; negative: the signal that ended it.
        timed_out: whether it had to be killed.
        left_processes: whether others that it had started were still there.
        stdout, stderr: what it wrote.
        seconds: how long it took.
    """

    code: int
    timed_out: bool
    left_processes: bool
    stdout: str
    stderr: str
    seconds: float


def import_all() -> None:
    """Imports what the programs import, in one thread, so that each fork has it."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    import tensorboard.compat.proto  # noqa: F401
    import timm  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    from torch import multiprocessing  # noqa: F401

    import sar.training  # noqa: F401
    import sar.visualization  # noqa: F401

    torch.set_num_threads(1)
    for program in sorted((REPOSITORY / "tools").glob("*.py")):
        runpy.run_path(str(program), run_name="imported")
    if threading.active_count() > 1:
        raise RuntimeError("a thread was started, which forks would lack")


def run_program(
    program: str, words: Sequence[str], folder: Path, *, timeout: float, obeys_rights: bool = False
) -> Outcome:
    """Runs a program of the repository in `folder`, as `python program words...` would.

    Args:
        program: its path in the repository.
        words: its command line.
        folder: its working directory. stdout and stderr go into files beside it.
        timeout: in seconds, after which it is killed.
        obeys_rights: without the right of root to read and write every file. Linux only.
    """
    streams = [folder.with_name(f"{folder.name}.{name}") for name in ("stdout", "stderr")]
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(program, words, folder, streams, obeys_rights)
    status, timed_out = _wait(child, start + timeout)
    left_processes = _end_group(child)
    return Outcome(
        code=os.waitstatus_to_exitcode(status),
        timed_out=timed_out,
        left_processes=left_processes and not timed_out,
        stdout=streams[0].read_text(encoding="utf-8", errors="replace"),
        stderr=streams[1].read_text(encoding="utf-8", errors="replace"),
        seconds=time.monotonic() - start,
    )


def _wait(child: int, deadline: float) -> tuple[int, bool]:
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status, False
        time.sleep(0.02)
    _end_group(child)
    return os.waitpid(child, 0)[1], True


def _end_group(group: int) -> bool:
    """Kills the processes of a group; whether there were any."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _become(
    program: str, words: Sequence[str], folder: Path, streams: list[Path], obeys_rights: bool
) -> None:
    """Turns a fresh fork into the program; does not return."""
    code = 70  # what it ends with if this function itself fails
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number, path in enumerate(streams, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
        # As Python has them where they are no terminal.
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        if obeys_rights:
            _drop_rights()
        path = REPOSITORY / program
        sys.argv = [program, *words]
        sys.path.insert(0, str(path.parent))
        code = _exit_code(lambda: runpy.run_path(str(path), run_name="__main__"))
        threading._shutdown()  # waits for threads, and the rest that Python does at its end
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _drop_rights() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, sets) == 0:
        sets[0] &= ~_RIGHTS
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "the rights of root cannot be dropped")


def _exit_code(main) -> int:
    """Runs it, and does with what it raises as Python does."""
    try:
        main()
    except SystemExit as exit:
        if exit.code is None or isinstance(exit.code, int):
            return (exit.code or 0) & 0xFF
        print(exit.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
