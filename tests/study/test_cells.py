import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from sar.errors import InputError
from sar.study.cells import Training, holds_training, iterations_done
from sar.study.matrix import Cell

FAKE = Path(__file__).with_name("fake_train_net.py")
CONFIG = "configs/Folder/baseline_sem_fpn_R_18.yaml"
COMMAND = [sys.executable, str(FAKE), "40"]


def cell(**changes):
    content = {
        "study": "mine", "config": CONFIG, "settings": {"SOLVER.MAX_ITER": 3},
        "test": "mine_val", "seed": 1, "held_out": "mine_test",
    }  # fmt: skip
    return Cell(**content | changes)


def start(folder, command=COMMAND, **changes):
    return Training(cell(**changes), folder, command=command, threads=2, device="cpu", gpu="5")


def finished(training):
    training.wait()
    return training.result()


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_row_has_the_results_of_the_final_weights(tmp_path):
    row = finished(start(tmp_path / "run"))
    assert row["metrics"]["sem_seg/mIoU"] == 41 and row["held_out_metrics"]["sem_seg/mIoU"] == 40
    assert row["metrics"]["sem_seg/mIoU@r_pixel"] != row["metrics"]["sem_seg/mIoU@r_pixel"]  # NaN
    assert row["groups"] == {"f": ["ground", "block"], "c": [], "r": ["dot"]}
    assert (row["key"], row["seed"], row["is_resumed"]) == (cell().key, 1, False)
    assert row["seconds_per_iteration"] == 0.5 and row["threads"] == 2
    assert json.loads(json.dumps(row))["settings"] == {"SOLVER.MAX_ITER": 3}
    assert (tmp_path / "run" / "console.txt").read_text().startswith(f"starting {CONFIG} 5 2\n")
    # The final checkpoint is enough.
    assert [path.name for path in (tmp_path / "run").glob("*.pth")] == ["model_final.pth"]
    assert iterations_done(tmp_path / "run") == 3


def test_a_training_that_was_told_to_end_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_STOPS", "1")
    training = start(tmp_path)
    wait_for(tmp_path / "stopped")
    assert not training.is_done()
    training.terminate()
    training.wait()
    with pytest.raises(InputError, match="was ended by SIGTERM.*console.txt"):
        training.result()
    assert iterations_done(tmp_path) == 2
    monkeypatch.delenv("FAKE_STOPS")
    row = finished(start(tmp_path))
    assert row["is_resumed"] and row["metrics"]["sem_seg/mIoU"] == 41
    assert "from iteration 2" in (tmp_path / "console.txt").read_text()


def test_a_failure_is_described_by_the_last_line_of_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAILS", "1")
    with pytest.raises(InputError, match="^images/train/a.png cannot be read: repair it .*log: "):
        finished(start(tmp_path / "run"))


@pytest.mark.parametrize("content", ["", "{}", '{"key": "of another training"}'])
def test_a_folder_of_others_is_refused(tmp_path, content):
    (tmp_path / "cell.json").write_text(content)
    with pytest.raises(InputError, match="does not hold this training"):
        start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cell.json"]
    assert (tmp_path / "cell.json").read_text() == content


def test_results_of_a_config_that_has_changed_are_refused(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("SOLVER: {BASE_LR: 0.01}  # a comment\n")
    folder, own = tmp_path / "run", cell(config=str(config))
    assert not holds_training(folder, own)
    finished(start(folder, config=str(config)))
    config.write_text("SOLVER: {BASE_LR: 0.01}  # another\n")
    assert holds_training(folder, own)
    overridden = "SOLVER: {BASE_LR: 0.01, MAX_ITER: 9}\nOUTPUT_DIR: other\nSEED: 7\n"
    config.write_text(overridden)
    assert holds_training(folder, own)
    config.write_text("SOLVER: {BASE_LR: 0.1}\nMODEL: {WEIGHTS: a.pth}\n")
    with pytest.raises(InputError, match="mine.yaml has changed .*MODEL.WEIGHTS, SOLVER.BASE_LR"):
        holds_training(folder, own)
    with pytest.raises(InputError, match="mine.yaml has changed"):
        start(folder, config=str(config))


@pytest.mark.skipif(sys.platform != "linux", reason="the signal at the parent's end is of Linux")
def test_a_training_ends_when_its_program_is_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_STOPS", "1")
    program = os.fork()
    if program == 0:
        start(tmp_path)
        wait_for(tmp_path / "stopped")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(program, 0)
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_iterations_of_a_log_that_is_being_written(tmp_path):
    assert iterations_done(tmp_path) == 0
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 19}\n{"iteration": 39, "long": "%s"}\n{"itera' % ("x" * 9000))
    assert iterations_done(tmp_path) == 40
