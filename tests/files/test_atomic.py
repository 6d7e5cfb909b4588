import os

import pytest

from sar.files.atomic import atomic_path, remove_leftovers, write_atomically


def test_writes_into_folders_that_are_not_there(tmp_path):
    write_atomically(tmp_path / "a" / "b.txt", "ü")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "ü".encode()
    write_atomically(tmp_path / "a" / "b.txt", b"\x00")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\x00"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_content_is_on_the_disk_before_the_name_points_to_it(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def recorded_fsync(descriptor):
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def recorded_replace(source, target):
        calls.append(("replace", str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    path = tmp_path / "a.png"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert temporary.suffix == ".png"
    assert calls == [
        ("fsync", str(temporary)),
        ("replace", str(temporary), str(path)),
        ("fsync", str(tmp_path)),
    ]


def test_what_a_killed_write_leaves_is_removed_and_no_file_of_anybody_else(tmp_path):
    others = {
        "a.txt", ".hidden", ".tmp-12345678.txt", ".sar-tmp-1234567z.txt", "sar-tmp-12345678.txt",
    }  # fmt: skip
    for name in others:
        (tmp_path / name).write_text("old")
    for name in ("a.txt", "b"):
        if os.fork() == 0:
            with atomic_path(tmp_path / name) as temporary:
                temporary.write_text("half")
                os._exit(9)  # runs no clean-up, as SIGKILL
        os.wait()
    assert len(os.listdir(tmp_path)) == len(others) + 2
    remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) == others
    assert (tmp_path / "a.txt").read_text() == "old"
    remove_leftovers(tmp_path / "nowhere")


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        if os.fork() == 0:
            remove_leftovers(tmp_path)
            os._exit(0)
        os.wait()
        remove_leftovers(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "half"


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path):
    longest = "n" * 251 + ".txt"
    write_atomically(tmp_path / longest, "a")
    assert os.listdir(tmp_path) == [longest]
