"""Every program of benchmarks/ runs at its smallest size and prints a figure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
# study.py, which needs a study of its own, is run in test_study.py; the others have tests below.
OTHERS = {"run_all", "fault_drill", "robustness", "soak", "study", "harness"}
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
    assert os.listdir(tmp_path) == ["smallest"]  # results of measurements are not mixed with these


@pytest.mark.slow
def test_all_of_them(tmp_path):
    pytest.importorskip("matplotlib", reason="needs pip install -e .[examples]")
    docs = ROOT / "docs" / "benchmarks.md"
    before = docs.read_bytes()
    out = run("run_all", "--device", "cpu", "--threads", 1, "--output", tmp_path, "loader")
    assert re.search(MEASURED, out), out
    assert re.search(MEASURED, (tmp_path / "smallest" / "benchmarks.md").read_text())
    assert docs.read_bytes() == before


@pytest.mark.slow
def test_fault_drill(tmp_path):
    assert "\n1 of 1 equal: 10 iterations" in run("fault_drill")


@pytest.mark.slow
def test_robustness(tmp_path):
    out = run("robustness", "--output", tmp_path)
    assert re.search(r"\| all +\| +\| +1 \| +\d \| +\d \| +0 \|", out), out


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_soak():
    out = run("soak")
    assert re.search(r"\| +10 \| +[\d.]+ +\| +[\d.]+ +\| +\d+ +\|", out), out
    assert re.search(r"\| +40 \| +[\d.]+ +\| +[\d.]+ +\|", out), out
