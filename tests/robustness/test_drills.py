"""Run the fault drill and the soak test at their smallest size."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
pytestmark = pytest.mark.slow


def run(program):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, FOLDER / program, "--smallest"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_fault_drill():
    assert "\n1 of 1 equal: 10 iterations" in run("fault_drill.py")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_soak():
    out = run("soak.py")
    assert re.search(r"\| +10 \| +[\d.]+ +\| +[\d.]+ +\| +\d+ +\|", out), out
    assert re.search(r"\| +40 \| +[\d.]+ +\| +[\d.]+ +\|", out), out
