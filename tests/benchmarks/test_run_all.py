import json
import sys
from pathlib import Path

import pytest

from ..programs import load_program

pytest.importorskip("matplotlib", reason="needs pip install -e .[examples]")
FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run_all(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield load_program(FOLDER / "run_all.py")
    sys.modules.pop("harness")


def row(program, run, subject, size, ours, growth=None, device="A CPU, 2 cores", **other):
    return {
        "program": f"{program}.py", "run": run, "device": device, "threads": 1,
        "versions": "torch 2", "subject": subject, "size": size, "ours": ours, "peer": 8.0,
        "floor": None, "unit": "ms", "growth": growth, **other,
    }  # fmt: skip


def test_it_runs_every_program_that_compares_with_a_peer(run_all):
    programs = {p.stem for p in FOLDER.glob("*.py") if "from harness import" in p.read_text()}
    assert set(run_all.PROGRAMS) == programs - {"run_all", "harness"}


def test_the_last_run_of_a_program_on_a_machine_counts(run_all):
    rows = [
        row("loader", "a", "Loader", "small", 1.0),
        row("loader", "a", "Loader", "gone since", 1.0),
        row("evaluator", "b", "Evaluator", "small", 2.0),
        row("loader", "c", "Loader", "small", 3.0),
        row("loader", "d", "Loader", "small", 4.0, device="A GPU"),
        row("no_more", "e", "Removed", "small", 5.0),
    ]
    kept = run_all.newest([json.dumps(each) for each in rows])
    assert [(each["device"], each["subject"], each["ours"]) for each in kept] == [
        ("A CPU, 2 cores", "Evaluator", 2.0),
        ("A CPU, 2 cores", "Loader", 3.0),
        ("A GPU", "Loader", 4.0),
    ]


def test_document_has_machines_tables_and_growth(run_all, tmp_path):
    output, docs = tmp_path / "output", tmp_path / "docs"
    output.mkdir()
    growths = [{"axis": "classes", "value": value, "predicted": 5 * value} for value in (10, 40)]
    rows = [
        row("loader", "a", "Loader, time", "small", 2.0),
        # Not in the order of size.
        row("evaluator", "b", "Evaluator, time", "40", 6.0, growths[1]),
        row("evaluator", "b", "Evaluator, time", "10", 2.0, growths[0]),
    ]
    (output / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert run_all.main(["--no-run", "--output", str(output), "--docs", str(docs)]) == 0
    text = (docs / "benchmarks.md").read_text()
    assert "## A CPU, 2 cores, 1 thread\n" in text and "torch 2" in text
    assert "    python benchmarks/loader.py --threads 1\n" in text
    assert text.index("evaluator.py") < text.index("loader.py")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["small", "2.00 ms", "8.00 ms", "4.00"] in cells
    assert ["Evaluator, time", "classes", "10", "40", "x 4.00", "x 3.00", "x 1.00"] in cells
    picture = "benchmarks-a-cpu-2-cores-1-thread.png"
    assert f"![Growth]({picture})" in text
    assert (docs / picture).read_bytes().startswith(b"\x89PNG")


def test_a_program_that_fails_is_named(run_all, tmp_path, capsys, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "loader.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(run_all, "FOLDER", programs)
    options = ["--output", str(tmp_path / "output"), "--docs", str(tmp_path / "docs"), "loader"]
    assert run_all.main(options) == 1
    assert "failed: loader" in capsys.readouterr().err


def test_unknown_program(run_all, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_all.main(["lodaer", "--output", str(tmp_path)])
    assert "unknown lodaer: known are pull_loss" in capsys.readouterr().err
