"""Start several processes in each way, and end them. Training in them is in test_distributed."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from sar.errors import InputError
from sar.training import launch, processes

from detectron2.engine import default_argument_parser

from ..runs import CONFIG, TORCHRUN, finish, wait_for

PROGRAM = """
import os, signal, sys, time
import torch
import torch.distributed as dist
from pathlib import Path
from sar.training.launch import run
from sar.errors import InputError
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

def main(cfg, args):
    rank = comm.get_rank()
{body}

if __name__ == "__main__":
    run(main)
"""
ERROR = re.compile("^error: .*$", re.MULTILINE)


@pytest.fixture
def start(tmp_path, overrides):
    """Start a program whose `main` has the given body, with flags or under torchrun."""
    processes = []

    def start(body, *flags, torchrun=()):
        path = tmp_path / "program.py"
        body = "\n".join("    " + line for line in body.strip().splitlines())
        path.write_text(PROGRAM.replace("{body}", body))
        command = [*torchrun, str(path)] if torchrun else [sys.executable, str(path)]
        process = subprocess.Popen(
            [*command, "--config-file", CONFIG, *flags, *overrides],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()


SHOW = """
images = len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0]))
line = (f"rank {rank} of {comm.get_world_size()}, local {comm.get_local_rank()} of "
        f"{comm.get_local_size()}, {dist.get_backend()}, {cfg.MODEL.DEVICE}, "
        f"{cfg.MODEL.FPN.NORM}, {images} images, {torch.get_num_threads()} threads")
for line in comm.gather(line):
    print(line)
"""


@pytest.mark.slow
@pytest.mark.parametrize("torchrun", [(), TORCHRUN], ids=["spawn", "torchrun"])
def test_two_processes_on_the_cpu(start, tmp_path, torchrun):
    flags = ["--num-gpus", "0"] + ([] if torchrun else ["--num-processes", "2"])
    code, out, err = finish(start(SHOW, *flags, torchrun=torchrun))
    assert code == 0, err
    # torchrun sets one thread itself.
    threads = 1 if torchrun else max(1, len(os.sched_getaffinity(0)) // 2)
    for rank in range(2):
        assert (
            f"rank {rank} of 2, local {rank} of 2, gloo, cpu, BN, 5 images, {threads} threads"
        ) in out
    assert out.count("Reading folder_mine_train") == 1  # by one of them


@pytest.mark.slow
def test_two_machines_on_the_cpu(start):
    flags = ["--num-gpus", "0", "--num-machines", "2"]
    flags += ["--dist-url", f"tcp://127.0.0.1:{processes._free_port()}"]
    machines = [start(SHOW, *flags, "--machine-rank", rank) for rank in "01"]
    code, out, err = finish(machines[0])
    assert code == 0, err
    code, _, err = finish(machines[1])
    assert code == 0, err
    for rank in range(2):
        assert f"rank {rank} of 2, local 0 of 1, gloo, cpu" in out


ALL_RAISE = 'raise InputError("all of us say so")'
ONE_RAISES = """
if rank == 1:
    raise InputError("all of us say so")
while True:
    comm.synchronize()
"""


@pytest.mark.slow
@pytest.mark.parametrize("torchrun", [(), TORCHRUN], ids=["spawn", "torchrun"])
@pytest.mark.parametrize("body", [ALL_RAISE, ONE_RAISES], ids=["all", "one"])
def test_bad_input_in_a_process_is_said_once_and_ends_all(start, body, torchrun):
    flags = ["--num-gpus", "0"] + ([] if torchrun else ["--num-processes", "2"])
    code, out, err = finish(start(body, *flags, torchrun=torchrun))
    assert code == 1
    assert ERROR.findall(out + err) == ["error: all of us say so"]
    if not torchrun:  # torchrun adds its own report and traceback
        assert "Traceback" not in out + err


@pytest.mark.slow
def test_bad_input_to_torchrun_is_said_once(start, folder):
    next((folder / "labels" / "val").iterdir()).write_bytes(b"no image")
    code, out, err = finish(start("pass", torchrun=TORCHRUN))
    assert code == 1
    assert len(ERROR.findall(out + err)) == 1 and "labels/val" in err


@pytest.mark.slow
def test_an_internal_error_keeps_its_traceback(start):
    code, _, err = finish(start("1 / rank", "--num-gpus", "0", "--num-processes", "2"))
    assert code == 1 and "ZeroDivisionError" in err


KILLED = """
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    comm.synchronize()
"""


@pytest.mark.slow
def test_a_killed_process_ends_the_others(start, overrides):
    overrides += ["SOLVER.IMS_PER_BATCH", "3"]
    code, _, err = finish(start(KILLED, "--num-gpus", "0", "--num-processes", "3"))
    assert code == 128 + signal.SIGKILL
    (error,) = ERROR.findall(err)
    assert "process 1 of this machine was ended by SIGKILL" in error and "--resume" in error
    assert "Traceback" not in err


ORPHANED = """
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in what a shell starts with &
Path(cfg.OUTPUT_DIR, f"half{rank}").write_text(str(os.getpid()))
Path(cfg.OUTPUT_DIR, f"half{rank}").rename(Path(cfg.OUTPUT_DIR, f"process{rank}"))
time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("torchrun", [(), TORCHRUN], ids=["spawn", "torchrun"])
def test_processes_end_with_their_launcher(start, tmp_path, torchrun):
    flags = ["--num-gpus", "0"] + ([] if torchrun else ["--num-processes", "2"])
    launcher = start(ORPHANED, *flags, torchrun=torchrun)
    files = [wait_for(tmp_path / "output" / f"process{rank}", launcher) for rank in range(2)]
    launcher.kill()
    launcher.wait()
    end = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{file.read_text()}") for file in files):
        assert time.monotonic() < end
        time.sleep(0.1)


TERMINATED = """
def exit_soon(signum, frame):
    time.sleep(rank)  # the last is waited for
    Path(cfg.OUTPUT_DIR, f"ended{rank}").touch()
    sys.exit(143)
if args.resume:
    signal.signal(signal.SIGTERM, exit_soon)
comm.synchronize()
Path(cfg.OUTPUT_DIR, f"ready{rank}").touch()
time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--resume"]], ids=["unhandled", "handled"])
def test_sigterm_reaches_the_processes(start, tmp_path, flags):
    process = start(TERMINATED, "--num-gpus", "0", "--num-processes", "2", *flags)
    output = tmp_path / "output"
    for rank in range(2):
        wait_for(output / f"ready{rank}", process)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 143
    assert ERROR.findall(err) == [] and "Traceback" not in err
    assert len(list(output.glob("ended*"))) == (2 if flags else 0)


RESTARTED = """
from sar.training.restart import note_begun
print(f"resume {args.resume}", flush=True)
if rank == 0 and {has_begun}:
    note_begun()
comm.synchronize()
if rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
comm.synchronize()
"""


@pytest.mark.slow
@pytest.mark.parametrize("has_begun", [True, False])
def test_what_torchrun_restarts_is_resumed_if_it_had_begun(has_begun, start):
    body = RESTARTED.replace("{has_begun}", str(has_begun))
    code, out, err = finish(start(body, torchrun=[*TORCHRUN, "--max-restarts", "1"]))
    assert code == 0, err
    assert out.count("resume True") == (2 if has_begun else 0)
    assert out.count("resume False") == (2 if has_begun else 4)


def test_ranks_without_the_number_of_processes_are_not_torchruns(monkeypatch, capsys):
    def stop(args):
        raise InputError("one process")

    monkeypatch.setattr(processes, "prepare", stop)
    monkeypatch.setattr(sys, "argv", ["train_net.py"])
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with pytest.raises(SystemExit, match="1"):
        launch.run(print)
    assert capsys.readouterr().err == "error: one process\n"


@pytest.mark.parametrize("flags, hint", [([], "Stopped. --resume"), (["--eval-only"], "Stopped.")])
def test_ctrl_c(flags, hint, monkeypatch, capsys):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "prepare", stop)
    monkeypatch.setattr(sys, "argv", ["train_net.py", *flags])
    with pytest.raises(SystemExit, match="130"):
        launch.run(print)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(hint) and ("--resume" in line) == ("--resume" in hint)


def test_a_wrong_command_line_cannot_write_to_the_terminal(capsys):
    with pytest.raises(SystemExit, match="2"):
        launch.argument_parser().parse_args(["--foo\x1b]0;title\x07"])
    assert "arguments: --foo\\x1b]0;title\\x07\n" in capsys.readouterr().err


def test_the_help_has_detectron2s_options_and_ours(capsys):
    with pytest.raises(SystemExit, match="0"):
        launch.argument_parser().parse_args(["--help"])
    said = capsys.readouterr().out
    for part in ("--eval-only", "--num-processes", "143 told to end", "examples:\n  python"):
        assert part in said


def test_the_options_are_detectron2s_and_three_more():
    ours = vars(launch.argument_parser().parse_args([]))
    detectron2s = vars(default_argument_parser().parse_args([]))
    differences = {name for name in ours if ours[name] != detectron2s.get(name, ...)}
    assert detectron2s.keys() <= ours.keys()
    assert differences == {"num_processes", "quiet", "imports", "num_gpus", "dist_url"}
    words = ["--config-file", "C", "--resume", "--eval-only", "--num-gpus", "2", "--num-machines"]
    words += ["3", "--machine-rank", "1", "--dist-url", "tcp://a:1", "SEED", "--1"]
    theirs = vars(default_argument_parser().parse_args(words))
    assert vars(launch.argument_parser().parse_args(words)).items() >= theirs.items()


@pytest.mark.slow
def test_several_lines_of_an_error_pass_from_a_process_to_its_launcher(start):
    body = 'raise InputError("two problems:", "  a.png", f"  b{chr(10)}error: forged.png")'
    code, _, err = finish(start(body, "--num-gpus", "0", "--num-processes", "2"))
    assert code == 1
    assert "error: two problems:\n  a.png\n  b\\nerror: forged.png\n" in err


def test_gpus_are_left_to_detectron2(monkeypatch):
    calls = []
    record = lambda *args, **named: calls.append((args, named))  # noqa: E731
    monkeypatch.setattr(processes, "launch_on_gpus", record)
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    flags = ["--num-gpus", "4", "--num-machines", "2", "--machine-rank", "1"]
    args = launch.argument_parser().parse_args([*flags, "--dist-url", "tcp://10.0.0.1:29500"])
    assert launch.argument_parser().parse_args([]).num_gpus is None  # what there is
    processes._launch(print, None, args)
    (positional, named) = calls[0]
    assert positional[1] == 4
    assert (named["num_machines"], named["machine_rank"]) == (2, 1)
    assert named["dist_url"] == "tcp://10.0.0.1:29500"
