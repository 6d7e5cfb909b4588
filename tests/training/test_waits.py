"""Trainings that wait for data when they receive SIGTERM or lose a process."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from ..runs import CONFIG, metrics

ERROR = re.compile("^error: .*$", re.MULTILINE)
# Two processes end after the time limit of sigterm.py.
SECONDS = {1: 20, 2: 60}


# Reading an image hangs, as on a dead file server, while a file "hang" lies in its folder.
PROGRAM = """
import os, runpy, signal, sys, time
from pathlib import Path
import sar.training.launch
from sar.data.mapper import SemanticSegmentationMapper

read = SemanticSegmentationMapper.__call__

def wait_and_read(self, record, *args):
    while Path(record["file_name"]).with_name("hang").exists():
        time.sleep(1000)
    return read(self, record, *args)

SemanticSegmentationMapper.__call__ = wait_and_read

def main(cfg, args):
    runpy.run_path("train_net.py")["main"](cfg, args)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have ignored it
    sar.training.launch.run(main)
"""


class Run:
    """A training in its own session, whose images can be made to hang."""

    def __init__(self, folder, tmp_path, processes, words):
        self.folder, self.output, self.log = folder, tmp_path / "output", tmp_path / "log"
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        command = [sys.executable, str(program), "--config-file", CONFIG, "--num-gpus", "0"]
        command += ["--num-processes", str(processes), *words]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait_until(self, condition):
        end = time.monotonic() + 240
        while not condition():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def wait_for_a_line(self):
        path = self.output / "metrics.json"
        self.wait_until(lambda: path.is_file() and metrics(self.output))

    def hang(self, split):
        """Make every read of an image of the split hang from now on."""
        (self.folder / "images" / split / "hang").touch()

    def finish(self, seconds):
        """Return exit code and output; check that no process is left."""
        try:
            code = self.process.wait(timeout=seconds)
            end = time.monotonic() + 10
            # One answer without a process is enough. A helper that is about to end has no command
            # line any more, and would be taken for another process in a second answer.
            while (left := self.processes()) and time.monotonic() < end:
                time.sleep(0.1)
            assert not left
        finally:
            self.kill()
        text = self.log.read_text()
        assert "Traceback" not in text, text
        return code, text

    def processes(self, parent=None):
        """Return the processes of the session, without the helpers of `multiprocessing`.

        Args:
            parent: id of a process, to return only its children.
        """
        words = ["ps", "-ww", "-o", "pid=,ppid=,stat=,args=", "-s", str(self.process.pid)]
        lines = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
        found = []
        for pid, ppid, state, command in (line.split(maxsplit=3) for line in lines):
            if "resource_tracker" not in command and not state.startswith("Z"):
                if parent is None or int(ppid) == parent:
                    found.append(int(pid))
        return sorted(found)

    def kill(self):
        for process in self.processes():
            os.kill(process, signal.SIGKILL)


@pytest.fixture
def start(folder, overrides, tmp_path):
    runs = []

    def start(processes, *words):
        long = ["SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "100000"]
        long += ["INPUT.CROP.SIZE", "(64, 64)", "SOLVER.IMS_PER_BATCH", "4"]
        runs.append(Run(folder, tmp_path, processes, [*overrides, *long, *words]))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_ends_a_wait_for_data(processes, workers, start):
    run = start(processes, "DATALOADER.NUM_WORKERS", str(workers))
    run.wait_for_a_line()
    run.hang("train")
    time.sleep(4)
    os.killpg(run.process.pid, signal.SIGTERM)
    code, text = run.finish(SECONDS[processes])
    assert code == 143, text
    if processes == 1:
        assert re.fullmatch(r"model_\d{7}\.pth", (run.output / "last_checkpoint").read_text())
    else:  # which are in the middle of an iteration
        assert text.count("The iterations after the last checkpoint are lost") == 1


@pytest.mark.slow
@pytest.mark.parametrize("told", ["all", "first", "second"])
def test_sigterm_in_an_evaluation_by_two_processes_saves_the_state_before(told, start):
    run = start(2, "TEST.EVAL_PERIOD", "30", "DATALOADER.NUM_WORKERS", "0")
    run.wait_until(run.output.is_dir)
    run.hang("val")
    run.wait_until(lambda: "Start inference" in run.log.read_text())
    time.sleep(1)
    if told == "all":
        os.killpg(run.process.pid, signal.SIGTERM)
    else:
        ranks = run.processes(run.process.pid)
        os.kill(ranks[told == "second"], signal.SIGTERM)
    code, text = run.finish(20)
    assert code == 143 and ERROR.findall(text) == [], text
    assert (run.output / "last_checkpoint").read_text() == "model_0000029.pth"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_killed_worker_ends_the_run(processes, split, start):
    run = start(processes, "DATALOADER.NUM_WORKERS", "2", "TEST.EVAL_PERIOD", "30")
    if split == "val":
        run.wait_until(run.output.is_dir)
        run.hang("val")
        run.wait_until(lambda: "Start inference" in run.log.read_text())
        time.sleep(2)
    else:
        run.wait_for_a_line()
        run.hang("train")
        time.sleep(4)
    parent = run.process.pid if processes == 1 else run.processes(run.process.pid)[-1]
    os.kill(run.processes(parent)[-1], signal.SIGKILL)
    code, text = run.finish(45)
    assert code == 1, text
    (error,) = ERROR.findall(text)
    assert "a worker process of the data loader was ended by SIGKILL" in error


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigint_to_the_launcher_ends_its_processes(processes, start):
    run = start(processes, "DATALOADER.NUM_WORKERS", "2")
    run.wait_for_a_line()
    os.kill(run.process.pid, signal.SIGINT)  # not to its children, as Ctrl-C in a terminal
    code, text = run.finish(20)
    assert code == 130 and "--resume continues from the last checkpoint" in text


@pytest.mark.slow
def test_sigterm_in_precise_bn_saves_the_state_before(start):
    words = ["TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "100000"]
    run = start(2, *words, "TEST.EVAL_PERIOD", "30", "MODEL.FPN.NORM", "BN")
    run.wait_until(lambda: "Running precise-BN" in run.log.read_text())
    time.sleep(1)
    os.kill(run.processes(run.process.pid)[1], signal.SIGTERM)
    code, text = run.finish(20)
    assert code == 143 and ERROR.findall(text) == [], text
    assert (run.output / "last_checkpoint").read_text() == "model_0000029.pth"
