"""The examples, smaller, in interpreters of their own that cannot import detectron2."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
METHODS = ["plain", "SAR", "CeCo", "SAR + CeCo"]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None or importlib.util.find_spec("matplotlib") is None,
    reason="needs pip install -e .[examples]",
)


def run(code: str) -> subprocess.CompletedProcess:
    """Runs Python code that finds the examples and the package, but no detectron2."""
    paths = [str(ROOT / "examples"), str(ROOT / "projects" / "SAR")]
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['detectron2'] = None\n{code}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *inherited])},
        capture_output=True,
        text=True,
        timeout=300,
    )


def read_table(path: Path) -> dict[str, dict[str, float]]:
    """The means in a table of Markdown, by row and column."""
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in path.read_text().splitlines()
    )
    return {
        row[0]: {
            name: float(cell.split("±")[0]) for name, cell in zip(header[1:], row[1:], strict=True)
        }
        for row in rows
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "smaller", "steps", "floor", "columns"),
    [
        ("classification", "", 60, 40, ["accuracy", "frequent", "common", "rare"]),
        (
            "point_cloud",
            "example.NUM_TRAIN, example.NUM_TEST, example.NUM_POINTS = 6, 3, 1024",
            40,
            60,
            ["accuracy", "mIoU", "mIoU frequent", "mIoU common", "mIoU rare"],
        ),
    ],
)
def test_example_learns_with_every_method(name, smaller, steps, floor, columns, tmp_path):
    arguments = ["--quick", "--steps", str(steps), "--output", str(tmp_path / "output")]
    result = run(f"import {name} as example\n{smaller}\nsys.exit(example.main({arguments}))")
    assert result.returncode == 0, result.stderr
    written = {path.name for path in (tmp_path / "output").glob("[!.]*")}
    assert written == {f"{name}.md", f"{name}.png"}
    table = read_table(tmp_path / "output" / f"{name}.md")
    assert list(table) == METHODS
    for metrics in table.values():
        assert list(metrics) == columns
        # Guessing gives 10% of the digits; the largest class of the rooms is a third of the points.
        assert metrics["accuracy"] > floor
    # They start from the same weights: the regularizers make the difference.
    assert len({tuple(metrics.values()) for metrics in table.values()}) == len(METHODS)
    assert (tmp_path / "output" / f"{name}.md").read_text() in result.stdout
    with Image.open(tmp_path / "output" / f"{name}.png") as picture:
        picture.load()
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(2**24)) > 20


@pytest.mark.parametrize("name", ["classification", "point_cloud"])
def test_a_file_of_the_user_is_refused_before_the_training(name, tmp_path):
    path = tmp_path / f"{name}.md"
    path.write_text("the user's")
    result = run(f"import {name} as it; sys.exit(it.main(['--output', {str(tmp_path)!r}]))")
    assert result.returncode == 1
    assert f"{path}. Choose another --output, or add --overwrite" in result.stderr
    assert path.read_text() == "the user's"


def test_impossible_options_are_refused():
    result = run("import classification; classification.main(['--seeds', '0'])")
    assert result.returncode == 2
    assert "--seeds: expected a whole number of at least 1, found '0'" in result.stderr


@pytest.mark.parametrize("name", ["classification", "point_cloud"])
def test_help_has_a_command_that_works(name):
    result = run(f"import {name}; {name}.main(['--help'])")
    assert result.returncode == 0, result.stderr
    _, _, command = result.stdout.partition("example:\n  python ")
    program, *words = command.split()
    assert program == f"examples/{name}.py" and (ROOT / program).is_file()
    result = run(
        f"import comparison; print(comparison.parse_args({words}, '', '', seeds=1, steps=9))"
    )
    assert "seeds=10, steps=9" in result.stdout, result.stderr
