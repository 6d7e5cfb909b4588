"""Workers that fail, each of which ends the wait for its batch with one message."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import sar  # noqa: F401
from sar.config import add_sar_config
from sar.data.loader import build_test_loader
from sar.data.workers import _take_sigterm_from_parent
from sar.errors import InputError

from detectron2.config import get_cfg

from ..distributed import run_processes

RECORDS = [{"image_id": i} for i in range(9)]


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_sar_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATALOADER.NUM_WORKERS = 2
    return cfg


def at_image_3(act):
    """A mapper that calls `act` when it reads the fourth image."""

    def mapper(record):
        if record["image_id"] == 3:
            act()
        return {**record, "image": torch.zeros(3, 8, 8)}

    return mapper


def first_error(cfg, mapper):
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        list(build_test_loader(cfg, mapper, RECORDS))
    assert time.monotonic() - start < 4  # PyTorch looks after its workers every five seconds
    assert not multiprocessing.active_children()
    return str(error.value)


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_ends_the_wait(cfg):
    message = first_error(cfg, at_image_3(kill_this_process))
    assert "SIGKILL, probably because memory ran out: lower DATALOADER.NUM_WORKERS" in message
    assert "which is 2. --resume" in message


def test_a_worker_that_exits_ends_the_wait(cfg):
    assert "has ended with exit code 3" in first_error(cfg, at_image_3(lambda: os._exit(3)))


def test_a_worker_that_writes_beyond_shared_memory_ends_the_wait(cfg):
    act = lambda: os.kill(os.getpid(), signal.SIGBUS)  # noqa: E731
    assert "--shm-size=8g" in first_error(cfg, at_image_3(act))


def test_a_worker_that_dies_raises_no_error_outside_of_the_wait(cfg):
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(build_test_loader(cfg, at_image_3(lambda: None), RECORDS))
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == handler
    worker = multiprocessing.active_children()[0]
    worker.kill()
    worker.join()
    with pytest.raises(InputError, match="SIGKILL"):
        list(batches)


TORCH_ERRORS = [
    "unable to write to file </torch_12_34_5>: No space left on device (28)",
    "unable to allocate shared memory(shm) for file </torch_12_34_5>: Success (0)",
    "unable to mmap 768 bytes from file </torch_1_2_3>: No space left on device (28)",
]


@pytest.mark.parametrize("text", TORCH_ERRORS)
@pytest.mark.parametrize("where", ["when a batch is passed on", "in the mapper"])
def test_full_shared_memory_ends_the_wait(cfg, text, where):
    def fail(*args):
        raise RuntimeError(text)

    def act():
        if where == "in the mapper":
            fail()
        torch.UntypedStorage._share_fd_cpu_ = fail  # in this worker

    message = first_error(cfg, at_image_3(act))
    assert "has no room in /dev/shm" in message and "--shm-size=8g" in message
    assert "DATALOADER.NUM_WORKERS 0" in message and text in message and "\n" not in message


@pytest.mark.parametrize(
    "code, advice",
    [(errno.ENOSPC, "--shm-size=8g"), (errno.ENOMEM, "free memory"), (errno.EMFILE, "ulimit -n")],
)
def test_workers_that_cannot_start_are_bad_input(cfg, code, advice, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(multiprocessing, "Queue", fail)
    assert advice in first_error(cfg, at_image_3(lambda: None))


def test_a_sample_that_cannot_be_pickled_is_an_error(cfg):
    mapper = lambda record: {"image": lambda: None}  # noqa: E731
    with pytest.raises(Exception, match="[Pp]ickle"):
        list(build_test_loader(cfg, mapper, RECORDS))


HANGING = """
import os, time
import sar
from sar.config import add_sar_config
from sar.data.loader import build_test_loader
from detectron2.config import get_cfg

def mapper(record):
    print(os.getpid(), flush=True)
    time.sleep(1000)

cfg = get_cfg()
add_sar_config(cfg)
cfg.MODEL.DEVICE = "cpu"
cfg.DATALOADER.NUM_WORKERS = 1
list(build_test_loader(cfg, mapper, [{"image_id": 0}]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_hangs_ends_after_its_parent(number):
    process = subprocess.Popen([sys.executable, "-c", HANGING], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    process.send_signal(number)
    process.wait()
    end = time.monotonic() + 20
    while os.path.exists(f"/proc/{worker}") and time.monotonic() < end:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{worker}")


def test_where_no_signal_says_who_sent_it_a_worker_heeds_all(monkeypatch):
    monkeypatch.delattr(signal, "sigtimedwait", raising=False)  # as on macOS
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        _take_sigterm_from_parent(0)
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _terminated_at_image_1(record):
    if record["image_id"] == 1:
        send = "import os, signal; os.kill(os.getppid(), signal.SIGTERM)"
        subprocess.run([sys.executable, "-c", send], check=True)
        time.sleep(0.5)  # in which any thread that is open to it takes it
    return record


def _load_with_a_worker_of_several_threads(rank, cfg):
    def start_thread():  # as libraries do, before `worker_init_fn` is called
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    os.register_at_fork(after_in_child=start_thread)
    records = [{"image_id": i} for i in range(9)]
    batches = iter(build_test_loader(cfg, _terminated_at_image_1, records))
    assert [next(batches)[0]["image_id"] for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(timeout=30)
    assert worker.exitcode == 0


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="no signal says who sent it")
def test_a_worker_of_several_threads_heeds_its_parents_sigterm_alone(cfg):
    cfg.DATALOADER.NUM_WORKERS = 1
    # In a process of its own: what is registered for forks stays.
    run_processes(_load_with_a_worker_of_several_threads, 1, cfg, start_method="fork")
