"""Start the processes of a run, and turn bad input in any of them into one clear message.

There are four ways to run. All end in `main(cfg, args)` in each process, with detectron2's `comm`
ready for use:

- one process;
- `--num-gpus 8`, `--num-machines M`: detectron2's `launch`, over NCCL;
- `--num-gpus 0 --num-processes 2`: the same on the CPU, over gloo, which detectron2 0.6 refuses;
- torchrun, which has started the processes itself: over NCCL on GPUs, over gloo on CPUs.

torch's `elastic_launch` cannot replace the third way: 30 seconds after SIGTERM it kills a process,
even while it writes a checkpoint. Only recent releases of torch have an option to change that.
"""

import atexit
import ctypes
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, spawn

from sar.errors import InputError
from sar.files import lock
from sar.preflight.prepare import Prepared, prepare
from sar.training.log import kept_lines, log_to_console, set_up_process
from sar.training.restart import goes_on
from sar.user_code import add_config_function, import_modules

from detectron2.engine import launch as launch_on_gpus
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm

_PR_SET_PDEATHSIG = 1  # of prctl(2)
# Process 0 may read a large data set first. If a process dies meanwhile, the others end anyway.
PREPARE_TIMEOUT = timedelta(days=1)


def prepare_and_run(main: Callable, args: Namespace) -> None:
    """Check the input once, then run `main` here or in the processes of this machine."""
    try:
        prepared = _prepare(args)
        if args.num_machines * args.num_processes == 1:
            _run(main, prepared, args)
        else:
            args.log_lines = kept_lines()
            _launch(main, prepared, args)
    finally:
        lock.release()


def _prepare(args: Namespace) -> Prepared:
    _import_user_code(args)
    first_rank = args.machine_rank * max(args.num_gpus or 0, args.num_processes)
    log_to_console(args, first_rank, names=("sar",))
    return prepare(args)


def _run(main: Callable, prepared: Prepared, args: Namespace) -> None:
    _import_user_code(args)
    prepared.register()
    set_up_process(prepared.cfg, args)
    main(prepared.cfg, args)
    comm.synchronize()  # a process that leaves early breaks the connections of the others


def _import_user_code(args: Namespace) -> None:
    """Make the user's modules and config keys known in this process."""
    import_modules(args.imports)
    if args.add_config is not None:
        add_config_function(args.add_config)


def _launch(main: Callable, prepared: Prepared, args: Namespace) -> None:
    """Start the processes of this machine and wait for them.

    Raises:
        InputError: raised by a process.
    """
    if args.dist_url == "auto":
        args.dist_url = f"tcp://127.0.0.1:{_free_port()}"
    signal.signal(signal.SIGTERM, _terminate_children)
    args.launcher = os.getpid()
    with tempfile.TemporaryDirectory(prefix="sar-") as errors:
        arguments = (main, prepared, args, errors)
        try:
            if args.num_gpus:
                launch_on_gpus(
                    _run_worker,
                    args.num_gpus,
                    num_machines=args.num_machines,
                    machine_rank=args.machine_rank,
                    dist_url=args.dist_url,
                    args=arguments,
                )
            else:
                spawn(_run_cpu_worker, nprocs=args.num_processes, args=arguments)
        except (ProcessExitedException, ProcessRaisedException) as error:
            # Bad input comes first: its process took away the connections of the others.
            for file in Path(errors).iterdir():
                raise InputError(*file.read_text().split("\n")) from error
            if isinstance(error, ProcessRaisedException):
                raise
            _exit_like(error)
        except KeyboardInterrupt:  # which a terminal sends to all processes, but `kill` only to one
            for process in multiprocessing.active_children():
                process.kill()
                process.join()
            raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _terminate_children(signum, frame) -> None:
    for process in multiprocessing.active_children():
        process.terminate()


def _exit_like(error: ProcessExitedException) -> None:
    """Exit as the process did; 128 + n if signal n ended it, as a shell does."""
    if error.exit_code >= 0:
        sys.exit(error.exit_code)
    number = -error.exit_code
    if number != signal.SIGTERM:
        hint = " (often: out of memory)" if number == signal.SIGKILL else ""
        print(
            f"error: process {error.error_index} of this machine was ended by "
            f"{signal.Signals(number).name}{hint}. The other processes were stopped; --resume "
            "continues from the last checkpoint.",
            file=sys.stderr,
        )
    sys.exit(128 + number)


def _run_cpu_worker(
    local_rank: int, main: Callable, prepared: Prepared, args: Namespace, errors: str
) -> None:
    if "OMP_NUM_THREADS" not in os.environ:  # by default, each process uses all cores
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_processes))
    dist.init_process_group(
        "gloo",
        init_method=args.dist_url,
        rank=args.machine_rank * args.num_processes + local_rank,
        world_size=args.num_machines * args.num_processes,
        timeout=DEFAULT_TIMEOUT,
    )
    _create_local_group(args.num_processes)
    _run_worker(main, prepared, args, errors)


def _run_worker(main: Callable, prepared: Prepared, args: Namespace, errors: str) -> None:
    _end_with(args.launcher)
    try:
        _run(main, prepared, args)
    except InputError as error:  # the launcher prints it once, even if all processes raise it
        Path(errors, str(comm.get_rank())).write_text(str(error))
        _leave(1)
    except SystemExit as error:
        _leave(error.code)
    _leave(0)


def _end_with(parent: int) -> None:
    """End this process as soon as its parent has ended, even by SIGKILL.

    The parent holds the lock of OUTPUT_DIR. torch asks the system for SIGINT, but a process that a
    shell started with `&` ignores SIGINT.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:  # for other systems, and if the parent ended before the call above
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _leave(code: int | str | None) -> None:
    """Exit without the interpreter's clean-up.

    In the clean-up, threads of gloo that still hold a tensor would abort the process.
    """
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _create_local_group(size: int) -> None:
    """Create the group of the `size` processes of a machine for `comm.get_local_rank`."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(size)
        return
    for first in range(0, comm.get_world_size(), size):  # detectron2 0.6
        ranks = list(range(first, first + size))
        group = dist.new_group(ranks)
        if comm.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def run_under_torchrun(main: Callable, args: Namespace) -> None:
    """Run `main` in this process, which torchrun has started with others."""
    shared_store, rank, world_size = next(dist.rendezvous("env://"))
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    args.num_machines, args.machine_rank = world_size // local_size, rank // local_size
    args.num_processes, args.dist_url = local_size, "env://"
    if args.num_gpus or (args.num_gpus is None and torch.cuda.is_available()):
        args.num_gpus = local_size
    _end_with(os.getppid())
    store = _store_of_this_start(shared_store, rank)
    try:
        prepared = _prepare_once(store, rank, args)
        backend = "gloo"
        if prepared.cfg.MODEL.DEVICE.startswith("cuda"):
            backend = "nccl"
            if local_rank >= torch.cuda.device_count():
                raise InputError(
                    f"torchrun starts {local_size} processes on this machine, which has "
                    f"{torch.cuda.device_count()} GPUs: change --nproc-per-node"
                )
            torch.cuda.set_device(local_rank)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world_size, timeout=DEFAULT_TIMEOUT
        )
        _create_local_group(local_size)
        _run(main, prepared, args)
    except InputError as error:  # the first process prints it, even if all raise it
        is_first = _count_error(store, 1) == 1
        _leave(f"error: {error}" if is_first else 1)
    except SystemExit as error:
        _leave(error.code)
    except Exception:
        if _count_error(store, 0) > 0:  # the connection broke because another process ended
            _leave(1)
        raise
    _leave(0)


def _count_error(store: dist.Store, number: int) -> int:
    try:
        return store.add("sar/num_errors", number)
    except RuntimeError:  # process 0, which hosts the store, has ended
        return number + 1


def _store_of_this_start(shared_store: dist.Store, rank: int) -> dist.Store:
    """Return a store that process 0 hosts.

    torchrun's own store outlives a restart. It keeps the addresses of dead processes, which PyTorch
    would then try to reach.
    """
    host = os.environ["MASTER_ADDR"]
    if rank == 0:
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        shared_store.set("sar/port", str(store.port))
        return store
    end = time.monotonic() + DEFAULT_TIMEOUT.total_seconds()
    while True:
        port = int(shared_store.get("sar/port"))
        try:
            store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        except RuntimeError:  # the port of the process 0 before the restart
            if time.monotonic() > end:
                raise
        else:
            store.set_timeout(DEFAULT_TIMEOUT)
            return store


def _prepare_once(store: dist.Store, rank: int, args: Namespace) -> Prepared:
    """Return what process 0 has prepared, or raise its InputError.

    If torchrun restarts a training, `args.resume` becomes True in all processes.
    """
    if rank == 0:
        args.resume = args.resume or (goes_on() and not args.eval_only)
        try:
            prepared = _prepare(args)
        except InputError as error:
            prepared = error
        store.set("sar/prepared", pickle.dumps((prepared, args.resume)))
    else:
        store.wait(["sar/prepared"], PREPARE_TIMEOUT)
        prepared, args.resume = pickle.loads(store.get("sar/prepared"))
    if isinstance(prepared, InputError):
        raise prepared
    return prepared
