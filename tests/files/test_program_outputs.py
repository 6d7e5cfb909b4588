"""The guard of the output files: a user's files stay as they are."""

import errno
import json
import os
import subprocess
import sys

import pytest

from sar.errors import InputError
from sar.files.program_outputs import JOURNAL, DiskFullError, Outputs, collected


def write(guard, path, text="ours"):
    with guard.writing(path) as temporary:
        temporary.write_text(text)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def data_set(tmp_path):
    """A folder that looks like a data set, with one file."""
    for part in ("images", "labels"):
        (tmp_path / "mine" / part / "train").mkdir(parents=True)
    (tmp_path / "mine" / "classes.txt").write_text("road\n")
    (tmp_path / "mine" / "labels" / "train" / "a.png").write_text("truth")
    return tmp_path / "mine"


def test_a_program_may_write_its_own_files_again(folder):
    for text in ("once", "twice"):
        guard = Outputs(folder)
        guard.check([folder / "labels" / "a.png"])
        write(guard, folder / "labels" / "a.png", text)
        write(guard, folder / "labels" / "a.png", text)
    assert (folder / "labels" / "a.png").read_text() == "twice"
    assert sorted(path.name for path in folder.rglob("*")) == [JOURNAL, "a.png", "labels"]


def test_files_of_the_user_stay_and_are_named_before_the_work(folder):
    folder.mkdir()
    paths = [folder / f"{i}.txt" for i in range(5)]
    for path in paths:
        path.write_text("the user's")
    with pytest.raises(InputError) as error:
        Outputs(folder).check([*paths, folder / "new.txt"])
    message = str(error.value)
    assert "5 of 6 files" in message and f"{paths[2]} and 2 more" in message
    assert "hoose another --output, or add --overwrite" in message
    with pytest.raises(InputError, match="add --overwrite"):
        write(Outputs(folder), paths[0])
    assert {path.read_text() for path in paths} == {"the user's"}
    write(Outputs(folder, overwrite=True), paths[0])
    assert [path.read_text() for path in paths] == ["ours"] + ["the user's"] * 4
    write(Outputs(folder), paths[0], "once more")


def test_a_file_that_the_user_changed_is_the_users(folder):
    path = folder / "a.txt"
    write(Outputs(folder), path, "ours")
    path.write_text("mine")  # of the same length
    with pytest.raises(InputError, match="changed since"):
        Outputs(folder).check([path])


def test_a_file_of_another_program_is_not_replaced(folder, monkeypatch):
    path = folder / "labels" / "a.png"
    monkeypatch.setattr(sys, "argv", ["tools/export.py"])
    write(Outputs(folder), path, "ground truth")
    monkeypatch.setattr(sys, "argv", ["tools/predict.py"])
    with pytest.raises(InputError, match="this program did not write them.*add --overwrite"):
        Outputs(folder).check([path])
    assert path.read_text() == "ground truth"
    Outputs(folder, program="export.py").check([path])
    write(Outputs(folder, overwrite=True), path, "predicted")
    write(Outputs(folder), path, "predicted again")
    with pytest.raises(InputError, match="add --overwrite"):
        Outputs(folder, program="export.py").check([path])


def test_a_line_of_the_journal_without_a_program_is_of_another_program(folder):
    path = folder / "a.txt"
    write(Outputs(folder), path)
    entry = json.loads((folder / JOURNAL).read_text())
    del entry["program"]
    (folder / JOURNAL).write_text(json.dumps(entry))
    with pytest.raises(InputError, match="add --overwrite"):
        Outputs(folder).check([path])


def test_a_killed_program_can_go_on(folder, monkeypatch):
    path = folder / "a.txt"
    write(Outputs(folder), path)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)  # noted, but without its name
        with pytest.raises(KeyboardInterrupt):
            write(Outputs(folder), path, "longer")
    with open(folder / JOURNAL, "a") as journal:
        journal.write('{"file": "b.t')  # killed in the middle of a line
    write(Outputs(folder), folder / "b.txt")
    write(Outputs(folder), path, "again")
    write(Outputs(folder), folder / "b.txt", "again")
    assert path.read_text() == "again"


@pytest.mark.parametrize("line", ["[1]", "null", "{", '{"file": []}', "9" * 5000, "[" * 100_000])
def test_lines_of_the_journal_that_are_no_entries_are_passed_over(folder, line):
    write(Outputs(folder), folder / "a.txt")
    with open(folder / JOURNAL, "a") as journal:
        journal.write(line + "\n")
    write(Outputs(folder), folder / "a.txt")


def test_the_journal_is_a_plain_file(folder, tmp_path):
    folder.mkdir()
    (tmp_path / "notes").write_text("notes")
    (folder / JOURNAL).symlink_to(tmp_path / "notes")
    with pytest.raises(InputError, match="not a regular file"):
        Outputs(folder)
    assert (tmp_path / "notes").read_text() == "notes"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["same", "link", "hard link", "link to the folder", "relative"])
def test_an_input_is_never_replaced(tmp_path, kind, overwrite, monkeypatch):
    source = tmp_path / "in" / "model.pth"
    source.parent.mkdir()
    source.write_text("weights")
    target = tmp_path / "model.pth"
    if kind == "same":
        target = source
    elif kind == "link":
        target.symlink_to(source)
    elif kind == "hard link":
        target.hardlink_to(source)
    elif kind == "link to the folder":
        (tmp_path / "other").symlink_to(source.parent)
        target = tmp_path / "other" / "model.pth"
    else:
        monkeypatch.chdir(tmp_path)
        target = os.path.join("in", "..", "in", "model.pth")
    with pytest.raises(InputError, match=f"is the input {source}"):
        Outputs.of_file(target, overwrite=overwrite, inputs=[tmp_path / "other.pth", source])
    assert source.read_text() == "weights"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", ["", "labels", "labels/train", "new/deep", "link", "in/../mine"])
def test_nothing_is_written_into_a_data_set(tmp_path, data_set, place, overwrite):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(data_set / "labels")
    folder = data_set / place
    if place in ("link", "in/../mine"):
        folder = tmp_path / place
    with pytest.raises(InputError, match=f"lies in the data set {data_set}"):
        Outputs(folder, overwrite=overwrite).check([folder / "a.png"])
    assert Outputs(tmp_path).check([tmp_path / "a.png"]) is None


def test_nothing_is_written_into_a_part_of_a_data_set_that_lies_elsewhere(tmp_path, data_set):
    photos = tmp_path / "photos"
    (data_set / "images").rename(photos)
    (data_set / "images").symlink_to(photos)
    guard = Outputs(tmp_path, overwrite=True, data=[data_set, data_set / "images"])
    with pytest.raises(InputError, match=f"lies in the data set {photos}"):
        guard.check([photos / "train" / "a.png"])
    # The output folder is around the data set, and only some of its files are inside.
    with pytest.raises(InputError, match=f"lies in the data set {data_set}"):
        guard.check([tmp_path / "a.png", data_set / "labels" / "train" / "a.png"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_that_leads_out_of_the_output_folder(tmp_path, folder, overwrite):
    (tmp_path / "precious").mkdir()
    folder.mkdir()
    (folder / "labels").symlink_to(tmp_path / "precious")
    (folder / "inside").mkdir()
    (folder / "alias").symlink_to("inside")
    guard = Outputs(folder, overwrite=overwrite)
    with pytest.raises(InputError, match="labels/deep leads out of it through a link"):
        guard.check([folder / "labels" / "deep" / "a.png"])
    guard.check([folder / "alias" / "a.png"])
    # The output folder itself may be a link.
    (tmp_path / "elsewhere").symlink_to(folder)
    write(Outputs(tmp_path / "elsewhere"), tmp_path / "elsewhere" / "a.txt")
    assert (folder / "a.txt").read_text() == "ours"


def test_a_link_in_the_place_of_a_file_is_the_users(folder, tmp_path):
    (tmp_path / "notes").write_text("notes")
    folder.mkdir()
    for target in (tmp_path / "notes", tmp_path / "nothing"):
        path = folder / f"to_{target.name}"
        path.symlink_to(target)
        with pytest.raises(InputError, match="add --overwrite"):
            Outputs(folder).check([path])
        write(Outputs(folder, overwrite=True), path)
    assert (tmp_path / "notes").read_text() == "notes"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_devices_and_pipes_are_refused(folder, overwrite):
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "null").symlink_to(os.devnull)
    for name in ("pipe", "null"):
        with pytest.raises(InputError, match=f"{name} is a device or a pipe"):
            Outputs(folder, overwrite=overwrite).check([folder / name])


def test_the_output_folder_is_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/deep"):
        with pytest.raises(InputError, match="file is not a folder: choose another --output"):
            Outputs(tmp_path / place).check([tmp_path / place / "a.png"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/labels").write_text("")
    with pytest.raises(InputError, match="out/labels is not a folder: choose another --output"):
        Outputs(tmp_path / "out").check([tmp_path / "out/labels/a.png"])
    (tmp_path / "dangling").symlink_to("nowhere/at/all")
    write(Outputs(tmp_path / "new" / "deep"), tmp_path / "new" / "deep" / "a.txt")


def test_a_file_is_no_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder: give the name of a file"):
        Outputs.of_file(tmp_path)


def test_a_folder_without_permission(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match="no permission to write"):
        Outputs(folder).check([folder / "a.png"])


def test_one_file_that_cannot_be_written_is_named_and_others_are_done(folder):
    guard = Outputs(folder)
    (folder / "b.txt").mkdir(parents=True)
    names = ["a.txt", "b.txt", f"{'n' * 300}.txt", "c.txt"]
    guard.check(folder / name for name in names)
    errors = []
    for name in names:
        with collected(errors):
            write(guard, folder / name)
    assert [path.name for path in sorted(folder.iterdir())] == [JOURNAL, "a.txt", "b.txt", "c.txt"]
    assert all("cannot be written" in str(error) for error in errors) and len(errors) == 2
    assert str(folder / "b.txt") in str(errors[0])
    assert not any("make room" in str(error) for error in errors)


def test_a_full_disk_ends_it(folder):
    guard, errors = Outputs(folder), []
    with pytest.raises(DiskFullError, match="a.txt cannot be written .*No space left.*make room"):
        with collected(errors), guard.writing(folder / "a.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not errors and not list(folder.iterdir())


def test_names_that_are_not_unicode(folder):
    path = folder / os.fsdecode(b"\xff.txt")
    for _ in range(2):
        write(Outputs(folder), path)
    (line,) = filter(None, (folder / JOURNAL).read_text().splitlines()[:2])
    assert json.loads(line)["file"] == path.name


def test_it_needs_neither_pytorch_nor_detectron2():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['detectron2'] = None; "
        "import sar.files.program_outputs"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
