"""Test the options that all command-line programs share. The programs are found by their files."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = [
    path
    for folder in (".", "tools", "benchmarks", "examples", "experiments")
    for path in sorted((ROOT / folder).glob("*.py"))
    if re.search(r'^if __name__ == "__main__":$', path.read_text(), re.MULTILINE)
]
TOOLS = sorted((ROOT / "tools").glob("*.py"))
OPTIONAL = ("matplotlib", "sklearn")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a program in this process; return its exit code, stdout and stderr."""
    modules = dict(sys.modules)

    def run(path, *words):
        monkeypatch.setattr(sys, "argv", [str(path), *words])
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.chdir(ROOT)
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as exit:
            return exit.code, *capsys.readouterr()
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            pytest.skip(f"needs {error.name}")
        return 0, *capsys.readouterr()

    yield run
    # Modules next to a program can share their names with other modules.
    for name in sys.modules.keys() - modules.keys():
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent.parent == ROOT:
            del sys.modules[name]


def test_all_are_found():
    assert {ROOT / "train_net.py", *TOOLS} <= set(PROGRAMS)
    assert {path.parent.name for path in PROGRAMS} >= {"benchmarks", "examples", "experiments"}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_help_and_wrong_options(path, run):
    code, out, _ = run(path, "--help")
    assert code == 0
    assert out.startswith(f"usage: {path.name} ")
    options, _, examples = out.partition("\nexample")
    assert f"  python {path.relative_to(ROOT)} " in examples
    assert options.count("\nexit codes:\n") == 1
    assert not re.search(r"^  --(folder|output) (?!FOLDER|FILE)", options, re.MULTILINE)
    if path in TOOLS:
        assert "\n  --quiet " in options and "\n  --verbose " in options
    code, out, err = run(path, "--no-such-option")
    assert (code, out) == (2, "")
    assert err.startswith("usage: ") and f"{path.name}: error: " in err


HELP = """
import runpy, sys
sys.argv = [{path!r}, "--help"]
try:
    runpy.run_path({path!r}, run_name="__main__")
finally:
    print("slow imports:", {{"torch", "detectron2"}} & sys.modules.keys() or "none")
"""


@pytest.mark.parametrize("path", [ROOT / "train_net.py", *TOOLS], ids=lambda path: path.name)
def test_help_imports_neither_pytorch_nor_detectron2(path):
    code = HELP.format(path=str(path))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("slow imports: none\n")
