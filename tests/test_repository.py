"""The Dockerfile and the ignored files fit the repository. No Docker is needed."""

import fnmatch
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = re.sub(r" *\\\n\s*", " ", (ROOT / "Dockerfile").read_text()).splitlines()
# Where the commands of the pages write: values of these options, and folders of data.
WRITTEN = re.compile(r"(?:--output|DATASETS\.FOLDER|--folder)[ =](?!/|~|FOLDER|C\b)([\w./-]+)")


def copied(lines=LINES):
    """Return the files and folders that COPY names, each with its target."""
    words = [shlex.split(line)[1:] for line in lines if line.startswith("COPY ")]
    patterns = [(pattern, target) for *patterns, target in words for pattern in patterns]
    found = [(sorted(ROOT.glob(pattern)), target) for pattern, target in patterns]
    assert all(paths for paths, _ in found), patterns
    return [(str(path.relative_to(ROOT)), target) for paths, target in found for path in paths]


def test_docker_copies_what_exists():
    ignored = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] not in ("", "#")
    ]
    assert len(copied()) > 8
    for source, target in copied():
        assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored), source
        # As in the checkout, so that the links in the package lead to them.
        assert target.rstrip("/") in (source, ".", str(Path(source).parent)), source


def test_docker_has_what_the_links_of_the_package_name():
    links = [path for path in (ROOT / "projects/SAR/sar").iterdir() if path.is_symlink()]
    assert {path.name for path in links} == {"configs", "tools", "train_net.py"}
    sources = {source for source, _ in copied()}
    assert {path.resolve().relative_to(ROOT).as_posix() for path in links} <= sources


def test_docker_sets_up_as_the_makefile_does():
    commands = "\n".join(line for line in LINES if line.startswith("RUN "))
    assert "make setup" in commands
    (needed,) = re.findall(r"^\$\(READY\): (.*)$", (ROOT / "Makefile").read_text(), re.M)
    before = LINES[: next(i for i, line in enumerate(LINES) if "make setup" in line)]
    assert {"Makefile", *needed.split()} <= {source for source, _ in copied(before)}
    python = re.search(r"^FROM python:(\d\.\d+)-", "\n".join(LINES), re.M)[1]
    assert f"python{python}" in (ROOT / "Makefile").read_text()
    page = (ROOT / "docs" / "install.md").read_text()
    (run,) = re.findall(r"docker run .*", page)
    assert "--shm-size 8g" in run and ":/workspace" in run and "WORKDIR /workspace" in LINES


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout"
)
def test_git_ignores_what_the_commands_of_the_pages_write():
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout

    pages = [ROOT / "README.md", ROOT / "datasets/README.md", *(ROOT / "docs").glob("*.md")]
    written = {
        "output/x",
        "example_data/x",
        "wandb/x",
        "mlflow.db",
        "mlruns/x",
        ".sar_outputs.jsonl",
    }
    for page in pages:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        written |= {name.rstrip("/") for name in WRITTEN.findall(text)}
    written -= {"path/to/your/folder"}
    assert len(written) > 10
    # A folder is ignored with and without a slash.
    ignored = git("check-ignore", "--no-index", *written, *(f"{name}/" for name in written))
    missing = {name for name in written if not {name, f"{name}/"} & set(ignored.splitlines())}
    assert not missing
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard") == ""
