"""Run every program of benchmarks/ at its smallest size: it prints a measurement or a table."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
OTHERS = {"run_all", "harness"}
MEASURING = sorted({path.stem for path in FOLDER.glob("*.py")} - OTHERS)
# A cell of a table with a time, memory or share.
MEASURED = r"\| *[\d.e-]+ (ms|MiB|KiB|%) *\|"


def run(program, *words):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, FOLDER / f"{program}.py", "--smallest", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("program", MEASURING)
def test_a_program_that_measures(program, tmp_path):
    out = run(program, "--device", "cpu", "--threads", 1, "--output", tmp_path)
    assert re.search(MEASURED, out), out
    assert (tmp_path / "smallest" / "results.jsonl").stat().st_size
    assert os.listdir(tmp_path) == ["smallest"]  # apart from real measurements


@pytest.mark.slow
def test_all_of_them(tmp_path):
    pytest.importorskip("matplotlib", reason="needs pip install -e .[examples]")
    docs = ROOT / "docs" / "benchmarks.md"
    before = docs.read_bytes()
    out = run("run_all", "--device", "cpu", "--threads", 1, "--output", tmp_path, "loader")
    assert re.search(MEASURED, out), out
    assert re.search(MEASURED, (tmp_path / "smallest" / "benchmarks.md").read_text())
    assert docs.read_bytes() == before
