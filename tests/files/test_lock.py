"""One training at a time in an OUTPUT_DIR."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sar.errors import InputError
from sar.files import lock


def in_child(function):
    """Call a function in a process that lives on: its number, and what it said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        lock._held.clear()  # of the parent
        try:
            function()
            os.write(writer, b"1")
        except InputError as error:
            os.write(writer, str(error).encode())
        time.sleep(60)
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    return child, said


def end(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_second_process_is_refused_and_told_who_holds_the_lock(tmp_path):
    lock.hold(tmp_path)
    lock.hold(tmp_path)  # the same process may ask again
    child, said = in_child(lambda: lock.hold(tmp_path))
    end(child)
    assert "is in use" in said
    assert f"process {os.getpid()} on host {socket.gethostname()}, since 20" in said
    lock.release()
    assert os.listdir(tmp_path) == []


def test_it_does_not_survive_a_process_that_is_killed(tmp_path):
    child, said = in_child(lambda: lock.hold(tmp_path))
    assert said == "1"
    with pytest.raises(InputError, match=f"is in use: process {child} on host"):
        lock.hold(tmp_path)
    end(child)
    assert os.listdir(tmp_path) == [".sar-run.lock"]
    lock.hold(tmp_path)


def test_a_link_to_the_folder_is_the_folder(tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "output")
    lock.hold(tmp_path / "output")
    child, said = in_child(lambda: lock.hold(tmp_path / "link"))
    end(child)
    assert "is in use" in said


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    lock.hold(tmp_path)
    assert "cannot be locked (Operation not supported)" in caplog.text


def test_the_folder_may_be_created_by_others_at_the_same_time(tmp_path):
    folders = [tmp_path / "runs" / str(i) for i in range(500)]
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lock.create, [folder for folder in folders for _ in range(4)]):
            pass
    assert all(folder.is_dir() for folder in folders)
    lock.release()
    assert not any(folder.exists() for folder in folders)


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "output").write_text("mine")
    with pytest.raises(FileExistsError):
        lock.create(tmp_path / "output")
