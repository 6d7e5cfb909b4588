"""A function in several processes of this machine, which are one process group."""

import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException, start_processes

COLLECTIVE_TIMEOUT = timedelta(seconds=60)  # its traceback says where a process waited in vain


def run_processes(
    function: Callable,
    num_processes: int,
    *args,
    timeout: float = 120.0,
    start_method: str = "forkserver",
) -> None:
    """Calls function(rank, *args) in each process; fails the test if one does not end well.

    Processes are forked from a server that has imported torch and `sar`. A fork of the tests' own
    process could not run autograd if a test has run it before. So `function` must be a function of
    a module, and all that it needs must be in `args`.

    Args:
        timeout: in seconds, after which the processes are killed and the test fails.
        start_method: of `multiprocessing`; "fork" copies the process of the tests.
    """
    # Without the server, each new interpreter would spend seconds on imports.
    multiprocessing.set_forkserver_preload(["torch", "sar", "detectron2.modeling"])
    failure = None
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder, "errors")
        errors.touch()
        arguments = (function, args, num_processes, errors)
        context = start_processes(
            _run, arguments, num_processes, join=False, start_method=start_method
        )
        end = time.monotonic() + timeout
        try:
            # A call returns when one process has ended.
            while failure is None and not context.join(max(0.0, end - time.monotonic())):
                if time.monotonic() >= end:
                    failure = f"{num_processes} processes did not end within {timeout:g} seconds"
        except ProcessExitedException as error:
            failure = f"{errors.read_text()}{error}"
        finally:
            for process in context.processes:
                process.kill()
                process.join()
    if failure is not None:
        pytest.fail(failure)


def _run(rank: int, function: Callable, args: tuple, num_processes: int, errors: Path) -> None:
    torch.set_num_threads(1)  # as in the test's own process
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{errors.with_name('rendezvous')}",
            rank=rank,
            world_size=num_processes,
            timeout=COLLECTIVE_TIMEOUT,
        )
        function(rank, *args)
        dist.barrier()  # who leaves first takes the others with it
    except BaseException:
        # Before the group is destroyed, so that the first error is the cause of the others.
        with errors.open("a") as file:
            file.write(f"Process {rank} of {num_processes}:\n{traceback.format_exc()}\n")
        sys.exit(1)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
