"""What all command-line programs have in common, however many there are: they are found."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = [
    path
    for folder in (".", "tools", "benchmarks", "examples")
    for path in sorted((ROOT / folder).glob("*.py"))
    if re.search(r'^if __name__ == "__main__":$', path.read_text(), re.MULTILINE)
]
TOOLS = sorted((ROOT / "tools").glob("*.py"))
OPTIONAL = ("matplotlib", "sklearn")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a program in this process: its exit code and what it says."""
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
    # Those that lie beside a program have names that others may have too.
    for name in sys.modules.keys() - modules.keys():
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent.parent == ROOT:
            del sys.modules[name]


def test_all_are_found():
    assert {ROOT / "train_net.py", *TOOLS} <= set(PROGRAMS)
    assert {path.parent.name for path in PROGRAMS} >= {"benchmarks", "examples"}


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
