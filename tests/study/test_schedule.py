import os
import signal
from pathlib import Path

import pytest

from sar.errors import InputError
from sar.study import schedule
from sar.study.matrix import Cell
from sar.study.schedule import run_cells, visible_gpus


class FakeTraining:
    """A training that is done when it is looked at for the second time."""

    running = []

    def __init__(self, cell, gpu, fails=()):
        if cell.seed in fails and gpu is None:
            raise InputError("cannot start")
        self.cell, self.gpu, self.folder = cell, gpu, Path("nowhere")
        self.fails, self.looks, self.is_stopped = cell.seed in fails, 0, False
        self.running.append(self)

    def is_done(self):
        self.looks += 1
        return self.looks == 2

    def result(self):
        self.running.remove(self)
        if self.fails:
            raise InputError("no space left")
        return {"seed": self.cell.seed, "gpu": self.gpu}

    def terminate(self):
        self.is_stopped = True

    wait = terminate


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    monkeypatch.setattr(schedule, "_PERIOD", 0)
    monkeypatch.setattr(FakeTraining, "running", [])


def run(tmp_path, start=FakeTraining, *, gpus=(), jobs=1, number=5):
    """Return the rows, the most trainings at a time, and the failed trainings."""
    cells = {
        f"run {seed}": Cell("mine", "c.yaml", {"SOLVER.MAX_ITER": 10}, "mine_val", seed)
        for seed in range(number)
    }
    rows, most = [], [0]

    def counted(cell, gpu):
        training = start(cell, gpu)
        most[0] = max(most[0], len(FakeTraining.running))
        return training

    failed = run_cells(
        cells,
        lambda cell: tmp_path / str(cell.seed),
        counted,
        lambda cell, row: rows.append(row),
        gpus=gpus,
        jobs=jobs,
        title="Training",
    )
    return rows, most[0], failed


def test_one_training_at_a_time_in_order(tmp_path):
    rows, most, failed = run(tmp_path)
    assert rows == [{"seed": seed, "gpu": ""} for seed in range(5)]
    assert (most, failed) == (1, [])


def test_each_training_has_a_gpu_of_its_own(tmp_path):
    rows, most, _ = run(tmp_path, gpus=["4", "7"], jobs=2)
    assert most == 2 and {row["gpu"] for row in rows} == {"4", "7"}
    assert sorted(row["seed"] for row in rows) == list(range(5))
    rows, most, _ = run(tmp_path, gpus=["4", "7"], jobs=4, number=4)
    assert most == 4 and sorted(row["gpu"] for row in rows) == ["4", "4", "7", "7"]


def test_a_failure_does_not_stop_the_others(tmp_path, capsys):
    rows, _, failed = run(tmp_path, lambda cell, gpu: FakeTraining(cell, gpu, fails=(1, 3)))
    assert [row["seed"] for row in rows] == [0, 2, 4] and failed == ["run 1", "run 3"]
    assert "error: run 1: no space left\n" in capsys.readouterr().err

    def start(cell, gpu):
        return FakeTraining(cell, gpu if cell.seed else None, fails=(0,))

    rows, _, failed = run(tmp_path, start, jobs=2)
    assert [row["seed"] for row in rows] == [1, 2, 3, 4] and failed == ["run 0"]


def test_the_bar_counts_iterations_and_leaves_out_failed_trainings(tmp_path, capsys):
    (tmp_path / "2").mkdir()  # interrupted
    (tmp_path / "2" / "metrics.json").write_text('{"iteration": 6}\n')
    run(tmp_path, lambda cell, gpu: FakeTraining(cell, gpu, fails=(1,)))
    bar = capsys.readouterr().err.replace("\r", "\n").splitlines()
    bar = [line for line in bar if line.startswith("Training")]
    assert " 7/50 " in bar[0] and " 40/40 " in bar[-1]


@pytest.mark.parametrize("stopped, error", [("SIGTERM", SystemExit), ("SIGINT", KeyboardInterrupt)])
def test_running_trainings_are_stopped_with_the_program(tmp_path, stopped, error, request):
    before = signal.getsignal(signal.SIGTERM)
    # A shell starts its background jobs with SIGINT ignored.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, ignored))

    def start(cell, gpu):
        if cell.seed == 3:
            os.kill(os.getpid(), getattr(signal, stopped))
        return FakeTraining(cell, gpu)

    with pytest.raises(error):
        run(tmp_path, start, jobs=2)
    assert FakeTraining.running and all(training.is_stopped for training in FakeTraining.running)
    assert signal.getsignal(signal.SIGTERM) is before


def test_gpus_that_are_visible(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert visible_gpus() == ["4", "5"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert visible_gpus() == []
