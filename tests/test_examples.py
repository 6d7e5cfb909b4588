"""The examples, at a much smaller size: they run, learn, and draw."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PACKAGE = str(Path("projects/SAR").resolve())


# Twice what guessing gives, and more, after a few steps of every method.
@pytest.mark.parametrize(
    "name, options, floor",
    [("classification", ["--steps", "60"], 20), ("point_cloud", ["--steps", "12"], 25)],
)
def test_example(name, options, floor, tmp_path):
    pytest.importorskip("sklearn", reason="an extra")
    command = [sys.executable, f"examples/{name}.py", "--quick", "--output", str(tmp_path)]
    paths = os.pathsep.join(filter(None, [PACKAGE, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    table = (tmp_path / f"{name}.md").read_text()
    rows = dict(re.findall(r"^\| (plain|SAR|CeCo|SAR \+ CeCo) +\| +([0-9.]+)", table, re.MULTILINE))
    assert list(rows) == ["plain", "SAR", "CeCo", "SAR + CeCo"]
    assert all(float(accuracy) > floor for accuracy in rows.values()), table
    assert "plain" in done.stdout
    picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
    assert min(picture.shape[:2]) > 300 and picture.std() > 10
