"""`make setup` empties only an environment that it made. Python is a stand-in here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"
MARKER = ".made-by-detectron2-sar"
# Fails at the step that FAIL_AT names, as if it were killed there.
PYTHON = """#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in
  *"$FAIL_AT"*) exit 1 ;;
  "-c "*) exit 0 ;;
esac
for last; do :; done
if [ "$2" = venv ]; then mkdir -p "$last/bin" && cp "$0" "$last/bin/python" && touch "$last/new"; fi
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(MAKEFILE, folder)
    (folder / "requirements.lock").write_text("pip==25.3\n")
    (folder / "requirements-sources.lock").write_text("")
    (folder / "requirements-weights.lock").write_text("")
    (folder / "setup.cfg").write_text("")
    python = tmp_path / "bin" / "python3.11"
    python.parent.mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    return folder


@pytest.fixture
def setup(project, tmp_path):
    def run(fail_at="nothing"):
        environment = os.environ | {
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "FAIL_AT": fail_at,
            "LOG": str(tmp_path / "log"),
        }
        command = ["make", "-C", str(project), "setup"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return run


def snapshot(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def pins_change(project):
    (project / "requirements.lock").write_text("pip==25.2\n")
    os.utime(project / "requirements.lock", (2**32, 2**32))


@pytest.mark.parametrize("is_there", [False, True])
def test_an_absent_or_empty_folder_is_filled_and_later_replaced(project, setup, is_there):
    if is_there:
        (project / ".venv").mkdir()
    done = setup()
    assert done.returncode == 0, done.stderr
    names = {MARKER, ".ready", "bin", "new"}
    assert {path.name for path in (project / ".venv").iterdir()} == names
    (project / ".venv" / "old").mkdir()
    assert setup().returncode == 0  # nothing to do
    assert (project / ".venv" / "old").is_dir()
    pins_change(project)
    assert setup().returncode == 0
    assert {path.name for path in (project / ".venv").iterdir()} == names


@pytest.mark.parametrize(
    "files",
    [
        ["conda-meta/history", "bin/python"],
        ["pyvenv.cfg", "bin/python"],
        ["notes.txt"],
        [".hidden"],
    ],
)
@pytest.mark.parametrize("is_link", [False, True])
def test_any_other_folder_stays(project, setup, tmp_path, files, is_link):
    folder = tmp_path / "elsewhere" if is_link else project / ".venv"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # A virtual environment of the user that has our name.
        (folder / name).write_text("prompt = detectron2-sar")
    if is_link:
        (project / ".venv").symlink_to(folder)
    before = snapshot(folder)
    done = setup()
    assert done.returncode != 0
    assert ".venv was not made by this Makefile: rename or remove it" in done.stderr
    assert snapshot(folder) == before


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_what_is_no_folder_stays(project, setup, kind):
    path = project / ".venv"
    if kind == "file":
        path.write_text("notes")
    else:
        path.symlink_to("nowhere")
    assert "was not made by this Makefile" in setup().stderr
    assert path.is_symlink() if kind == "dangling link" else path.read_text() == "notes"


@pytest.mark.parametrize("fail_at", ["-m venv", "pip==", "-c requirements.lock", "-e ."])
def test_a_set_up_that_was_killed_goes_on(project, setup, fail_at):
    assert setup(fail_at).returncode != 0
    assert (project / ".venv" / MARKER).is_file()
    (project / ".venv" / "half").mkdir()
    assert setup().returncode == 0
    assert not (project / ".venv" / "half").exists()
    pins_change(project)
    assert setup(fail_at).returncode != 0
    assert not (project / ".venv" / ".ready").exists()
    assert setup().returncode == 0


def test_killed_right_after_the_marker_was_made(project, setup):
    (project / ".venv").mkdir()
    (project / ".venv" / MARKER).touch()
    assert setup().returncode == 0


def test_the_environment_may_lie_on_another_disk(project, setup, tmp_path):
    (tmp_path / "disk").mkdir()
    (project / ".venv").symlink_to(tmp_path / "disk")
    assert setup().returncode == 0
    pins_change(project)
    assert setup().returncode == 0
    assert (project / ".venv").is_symlink() and (tmp_path / "disk" / "new").exists()
    # A second copy of the project may not empty what the first one uses.
    (tmp_path / "disk" / MARKER).write_text("/another/copy\n")
    os.utime(project / "requirements.lock", (2**32 + 9, 2**32 + 9))
    before = snapshot(tmp_path / "disk")
    assert "was not made by this Makefile" in setup().stderr
    assert snapshot(tmp_path / "disk") == before
