"""A fixed selection of benchmarks/robustness.py, and that its judge sees what it is there for."""

import json
import runpy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def robustness(monkeypatch):
    """The modules of benchmarks/robustness/."""
    monkeypatch.syspath_prepend("benchmarks")
    from robustness import case, judge, processes, sandbox

    yield SimpleNamespace(case=case, judge=judge, processes=processes, sandbox=sandbox)
    for name in [name for name in sys.modules if name.partition(".")[0] == "robustness"]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("selection", [["--every", "25"], ["--only", "exploit"]])
def test_selection(selection, tmp_path):
    command = [sys.executable, "benchmarks/robustness.py", "--output", str(tmp_path), *selection]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = [json.loads(line) for line in (tmp_path / "robustness.jsonl").read_text().splitlines()]
    assert done.returncode == 0, [line for line in lines if line["verdict"] == "failed"]
    assert len(lines) >= 30
    if "exploit" in selection:  # past which --resume takes the checkpoint before
        lines = [line for line in lines if line["program"] != "resume"]
    verdicts = {line["verdict"] for line in lines}
    assert verdicts == ({"refused"} if "exploit" in selection else {"refused", "accepted"})


@pytest.fixture
def judged(robustness, tmp_path):
    """Judges a check_dataset that ended as told, after it had done as told to its folder."""
    folder = tmp_path / "case"
    robustness.sandbox.write_dataset(folder / "mine", np.random.default_rng(0))

    def run(code=1, stderr="error: classes.txt is bad\n", expected="either", act=None, **ended):
        before = robustness.sandbox.digests(folder)
        if act:
            act(folder)
        outcome = {"code": code, "stderr": stderr, "stdout": "", "timed_out": False, "seconds": 1.0}
        outcome = robustness.processes.Outcome(**outcome | {"left_processes": False} | ended)
        a_case = robustness.case.Case(
            "check_dataset", folder, np.random.default_rng(0), names=["classes.txt"]
        )
        mutation = robustness.case.Mutation(
            "class file", "", ("check_dataset",), expected, 1, print
        )
        return robustness.judge.judge(a_case, mutation, outcome, before, None)

    return run


def test_a_clear_refusal(judged):
    assert judged() == ("refused", "error: classes.txt is bad")


def write_counts(folder, pixels):
    counts = {"class_names": ["ground", "block", "dot"], "num_images": 4, "images": [4, 4, 4]}
    (folder / "checked").mkdir()
    (folder / "checked/class_frequency.json").write_text(json.dumps(counts | {"pixels": pixels}))


def counted(folder):
    labels = [np.asarray(Image.open(path)) for path in (folder / "mine/labels/train").iterdir()]
    return [int(sum((label == i).sum() for label in labels)) for i in range(3)]


def test_a_right_result(judged):
    act = lambda folder: write_counts(folder, counted(folder))  # noqa: E731
    assert judged(code=0, stderr="", act=act) == ("accepted", "")


@pytest.mark.parametrize(
    "how, reason",
    [
        ({"timed_out": True}, "no end"),
        ({"code": -11}, "signal 11"),
        ({"left_processes": True}, "left processes"),
        ({"stderr": "Traceback (most recent call last):\nKeyError: 1\n"}, "traceback: KeyError"),
        ({"stdout": "Traceback (most recent call last):\nKeyError: 1\n"}, "traceback: KeyError"),
        ({"stderr": ""}, "0 error messages"),
        ({"stderr": "error: classes.txt\nerror: classes.txt\n"}, "2 error messages"),
        ({"stderr": "error: it did not work\n"}, "names none"),
        ({"stderr": "error: theclasses.txt\n"}, "names none"),
        ({"stderr": "error: classes.txt" + "x" * 5000}, "characters"),
        ({"expected": "accepted"}, "refused, but is right"),
        ({"act": lambda folder: (folder / "exploit-ran").touch()}, "executed"),
        ({"act": lambda folder: (folder / "new").touch()}, "refused, but changed new"),
        ({"code": 0, "act": lambda folder: write_counts(folder, [1, 2, 3])}, "counted"),
        ({"code": 0}, "cannot be read"),
        (
            {"code": 0, "expected": "refused"}
            | {"act": lambda folder: write_counts(folder, counted(folder))},
            "accepted, but is wrong",
        ),
    ],
)
def test_failures(how, reason, judged):
    verdict, found = judged(**how)
    assert verdict == "failed" and reason in found


@pytest.mark.parametrize(
    "text, is_named",
    [
        ("error: MODEL.FPN.NORM is x", True),
        ("error: MODEL.FPN.NORM: x.", True),
        ("error: (MODEL.FPN.NORM.)", True),
        ("error: NORM is normal", False),
        ("error: MODEL.FPN", False),
        ("error: MODEL.FPN.NORMS", False),
        ("error: MODEL.FPN.NORM.X", False),
        ("error: A.MODEL.FPN.NORM", False),
        ("error: model.fpn.norm", False),
    ],
)
def test_a_key_is_named_in_full(text, is_named, robustness):
    assert robustness.judge.is_named("MODEL.FPN.NORM", text) == is_named


@pytest.fixture
def touched(robustness, tmp_path):
    """What a program is judged to have changed, which did as told to a folder with a run."""
    for name in ("model_final.pth", "model_abc.pth", "log.txt", "metrics.json"):
        (tmp_path / "output").mkdir(exist_ok=True)
        (tmp_path / "output" / name).write_text(name)

    def run(program, act):
        case = robustness.case.Case(program, tmp_path, np.random.default_rng(0))
        before = robustness.sandbox.digests(tmp_path)
        act(tmp_path / "output")
        return robustness.judge._touched_input(case, before)

    return run


@pytest.mark.parametrize(
    "program, name, is_right",
    [
        ("report", "model_final.pth", False),
        ("report", "log.txt", False),
        ("evaluate", "model_final.pth", False),
        ("evaluate", "log.txt", True),
        ("resume", "model_final.pth", True),
        ("resume", "model_abc.pth", False),
        ("train", "model_final.pth", False),
        ("train", "metrics.json", False),
        ("train", "log.txt", True),
    ],
)
def test_what_a_program_may_change(program, name, is_right, touched):
    problem = touched(program, lambda output: (output / name).write_text("x"))
    assert problem == ("" if is_right else f"changed output/{name}")


def test_a_training_may_move_the_one_before(touched):
    def move(output):
        (output / "previous").mkdir()
        (output / "model_final.pth").rename(output / "previous/model_final.pth")
        (output / "model_final.pth").write_text("x")

    assert touched("train", move) == ""
    assert touched("report", lambda output: (output / "previous/model_final.pth").unlink())


def test_rights_are_taken_back(robustness, tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    mode = path.stat().st_mode
    case = robustness.case.Case("train", tmp_path, np.random.default_rng(0), rights={path: 0})
    with pytest.raises(KeyboardInterrupt), case.locked():
        assert path.stat().st_mode & 0o777 == 0
        raise KeyboardInterrupt
    assert path.stat().st_mode == mode


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train_net.py", "tools/visualize.py"])
def test_a_program_ends_as_it_would_by_itself(program, robustness, tmp_path):
    """In a fork and in a process of its own: the same exit code and the same error."""
    words = ["--config-file", "nowhere.yaml"] + ["--output", "x"] * program.startswith("tools")
    script = (
        "import sys; sys.path.insert(0, 'benchmarks')\n"
        "from robustness.processes import run_program; from pathlib import Path\n"
        f"outcome = run_program({program!r}, {words}, Path({str(tmp_path)!r}), timeout=60)\n"
        "sys.stderr.write(outcome.stderr); sys.exit(outcome.code)"
    )
    ends = []
    for command in ([program, *words], ["-c", script]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        ends.append((done.returncode, done.stderr.splitlines()[-1]))
    assert ends[0] == ends[1] and ends[0][0] == 1
    assert ends[0][1].startswith("error: config nowhere.yaml")


def test_every_case_has_a_name_of_its_own(robustness):
    cases = runpy.run_path("benchmarks/robustness.py")["all_cases"]()
    names = [name for name, *_ in cases]
    assert len(set(names)) == len(names) >= 300
