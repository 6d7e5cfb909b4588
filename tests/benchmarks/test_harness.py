import json
import sys
from pathlib import Path

import pytest
import torch

from ..programs import load_program

PATH = Path(__file__).parents[2] / "benchmarks" / "harness.py"


@pytest.fixture(scope="module")
def harness():
    return load_program(PATH)


class Clock:
    """Stands still but for those who move it."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def test_functions_take_turns_and_the_median_of_a_call_is_told(harness, monkeypatch):
    clock, calls = Clock(), []
    monkeypatch.setattr(harness, "time", clock)
    durations = {"slow": iter([9, 9, 1, 2, 3, 4, 100]), "even": iter([7] * 7)}

    def function(name):
        calls.append(name)
        clock.now += next(durations[name])

    functions = {name: lambda name=name: function(name) for name in durations}
    assert harness.time_alternately(functions, seconds=0) == {"slow": 3, "even": 7}
    # Two calls each to warm up, then five rounds, every other one in the opposite order.
    pair = ["slow", "even"]
    assert calls[4:] == pair + pair[::-1] + pair + pair[::-1] + pair


def test_short_functions_are_called_several_times_a_reading(harness, monkeypatch):
    clock, calls = Clock(), []
    monkeypatch.setattr(harness, "time", clock)

    def function():
        calls.append(None)
        clock.now += 1e-4

    assert harness.time_alternately({"short": function}, seconds=0)["short"] == pytest.approx(1e-4)
    assert len(calls) == 2 + 5 * 20


def test_peak_memory_is_exact(harness):
    kept = torch.zeros(1000)

    def function():
        first = torch.zeros(500)  # 2000 bytes
        second = torch.zeros(1000)  # 4000 bytes beside it
        del first
        kept.add_(1)
        return torch.cat([second, second[:250]])  # 5000 bytes, the other 4000 still there

    assert harness.peak_memory(function) == 9000


def test_peak_memory_sees_the_backward_pass(harness):
    weight = torch.ones(1000, requires_grad=True)

    def function():
        weight.grad = None
        (weight * weight).sum().backward()

    # The gradients of both factors, and scalars: the product is gone by then.
    assert 8000 <= harness.peak_memory(function) < 8100


def test_bandwidth_is_a_rate(harness):
    assert 0 < harness.bandwidth("cpu", 2**16) < float("inf")


def test_report_writes_a_line_a_measurement_and_a_table_a_subject(harness, tmp_path, capsys):
    growth = harness.Growth("classes", 11, 2.0)
    measurements = [
        harness.Measurement("loss", "small", ours=2.0, peer=9.0, floor=1.6, growth=growth),
        harness.Measurement("loss", "large", ours=300.0, peer=1200.0),
        harness.Measurement("memory", "small", ours=0.0, unit="MiB"),
    ]
    harness.report(measurements[:2], tmp_path, "cpu")
    harness.report(measurements[2:], tmp_path, "cpu")
    lines = [json.loads(line) for line in (tmp_path / harness.RESULTS).read_text().splitlines()]
    assert [(line["subject"], line["size"], line["ours"]) for line in lines] == [
        ("loss", "small", 2.0), ("loss", "large", 300.0), ("memory", "small", 0.0),
    ]  # fmt: skip
    assert lines[0]["growth"] == {"axis": "classes", "value": 11, "predicted": 2.0}
    assert f"torch {torch.__version__.partition('+')[0]}" in lines[0]["versions"]
    assert lines[0]["threads"] == torch.get_num_threads()

    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == ["size", "ours", "peer", "peer / ours", "floor", "ours / floor"]
    assert cells[2] == ["small", "2.00 ms", "9.00 ms", "4.50", "1.60 ms", "1.25"]
    assert cells[3] == ["large", "300 ms", "1200 ms", "4.00", "", ""]
    assert cells[4] == ["size", "ours"] and cells[6] == ["small", "0 MiB"]


def test_benchmarks_add_their_lines_to_one_file(harness, tmp_path, monkeypatch):
    for name in ("loader.py", "evaluator.py"):
        monkeypatch.setattr(sys, "argv", [name])
        harness.report([harness.Measurement("thing", "small", ours=1.0)], tmp_path, "cpu")
    lines = [json.loads(line) for line in (tmp_path / harness.RESULTS).read_text().splitlines()]
    assert [line["program"] for line in lines] == ["loader.py", "evaluator.py"]


def test_a_file_of_the_user_is_refused_before_anything_is_measured(harness, tmp_path, capsys):
    path = tmp_path / harness.RESULTS
    path.write_text("the user's\n")

    def measure(device):
        yield harness.Measurement("thing", "small", 1.0)
        done.append(device)

    done, words = [], ["--device", "cpu", "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match="1"):
        harness.main("Measures nothing.", measure, words)
    assert not done and path.read_text() == "the user's\n"
    assert "add --overwrite" in capsys.readouterr().err
    harness.main("Measures nothing.", measure, [*words, "--overwrite"])
    assert done and path.read_text().startswith("the user's\n{")  # lines are added, none is lost


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (0.00001234, "1.2e-05"), (0.01234, "0.0123"), (1.5, "1.50"), (99.96, "100"),
     (12.345, "12.3"), (12345.6, "12346")],
)  # fmt: skip
def test_numbers_have_three_digits(harness, value, text):
    assert harness.number(value) == text


def test_the_command_line_sets_threads_and_output(harness, tmp_path, capsys):
    threads = torch.get_num_threads()
    try:
        harness.main(
            "Measures nothing.",
            lambda device: [harness.Measurement("thing", device.type, torch.get_num_threads())],
            ["--threads", "2", "--device", "cpu", "--output", str(tmp_path / "new")],
        )
    finally:
        torch.set_num_threads(threads)
    line = json.loads((tmp_path / "new" / harness.RESULTS).read_text())
    assert (line["size"], line["ours"], line["threads"]) == ("cpu", 2, 2)


def test_with_smallest_one_size_is_measured_once_and_kept_apart(harness, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "_is_smallest", False)
    sizes, calls = [(2, 300), (5, 7), (1, 40)], []
    assert harness.chosen(sizes) == sizes

    def measure(device):
        assert harness.chosen(sizes) == [(5, 7)]
        assert harness.chosen(sizes, elements=max) == [(5, 7)]
        assert harness.chosen(sizes, smallest=(1, 1)) == [(1, 1)]
        harness.time_alternately({"ours": lambda: calls.append(0)})
        yield harness.Measurement("thing", "5x7", 1.0)

    harness.main("", measure, ["--smallest", "--device", "cpu", "--output", str(tmp_path)])
    assert len(calls) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["smallest"]


def test_help_has_an_example(harness, capsys):
    with pytest.raises(SystemExit) as exit:
        harness.main("Measures nothing.", lambda device: [], ["--help"])
    assert exit.value.code == 0
    assert "python benchmarks/" in capsys.readouterr().out
