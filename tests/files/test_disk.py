"""Every writer of a run whose disk fails, which ends it with one message."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from sar.errors import InputError
from sar.evaluation import predictions_file, results_file
from sar.files.disk import require_folder, writing_to
from sar.training.trainer import Trainer

from detectron2.utils.events import JSONWriter

from ..runs import At, train

FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no file that is always full")


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_an_error_of_the_disk_is_said_with_its_place(number, tmp_path):
    path = str(tmp_path / "file")
    with pytest.raises(InputError, match="MiB are free there.*--resume") as error:
        with writing_to(str(tmp_path)):
            raise OSError(number, os.strerror(number), path)
    assert path in str(error.value) and os.strerror(number) in str(error.value)


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError), writing_to(str(tmp_path)):
        (tmp_path / "nowhere").read_text()


def test_a_removed_folder_is_said(tmp_path):
    folder = tmp_path / "output"
    with pytest.raises(InputError, match=f"OUTPUT_DIR {folder} was removed during the run"):
        with writing_to(str(folder)):
            (folder / "file").write_text("")
    folder.mkdir()
    with pytest.raises(InputError, match="config.yaml was removed"):
        require_folder(str(folder), "config.yaml")


@FULL
def test_metrics_on_a_full_disk_end_the_training(overrides, monkeypatch):
    monkeypatch.setattr(Trainer, "build_writers", lambda self: [JSONWriter("/dev/full")])
    with pytest.raises(InputError, match="No space left on device.*Make room"):
        train(overrides)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_events_on_a_full_disk_end_the_training(overrides, monkeypatch, capfd):
    file = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    write, main = file.write, threading.main_thread()

    def fail(self, data):
        assert threading.current_thread() is not main
        if b"total_loss" in data:
            no_space()
        write(self, data)

    monkeypatch.setattr(file, "write", fail)
    with pytest.raises(InputError, match="No space left on device.*Make room"):
        train(overrides)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "owner, writer",
    [
        (results_file, "write_atomically"),
        (predictions_file, "atomic_path"),
        (predictions_file.PredictionsFile, "append"),
    ],
)
def test_results_on_a_full_disk_end_the_evaluation(owner, writer, overrides, monkeypatch):
    monkeypatch.setattr(owner, writer, no_space)
    with pytest.raises(InputError, match="No space left on device.*Make room"):
        train([*overrides, "TEST.SAVE_JSON", "True", "TEST.EVAL_PERIOD", "1"])


@pytest.mark.parametrize("kept", [False, True], ids=["all", "its files"])
def test_what_was_removed_is_not_made_again(kept, overrides, tmp_path):
    output = tmp_path / "output"

    def remove():
        shutil.rmtree(output)
        if kept:
            output.mkdir()

    with pytest.raises(InputError, match="was removed during the run"):
        train(overrides, At(0, remove))
    assert [str(path) for path in Path(output).rglob("*")] == []
