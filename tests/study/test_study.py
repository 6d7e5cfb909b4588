import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sar.config import load_config
from sar.errors import InputError
from sar.files.program_outputs import Outputs

from ..programs import load_program

pytest.importorskip("matplotlib", reason="needs pip install -e .[examples]")
from sar.study import schedule
from sar.study.cells import Training, curves
from sar.study.matrix import Cell, read_study
from sar.study.page import write_page

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
STUDIES = ("longtail_shapes", "camvid")
PULL_WEIGHT = "MODEL.SEMANTIC_ANCHOR.PULL_WEIGHT"
GROUPS = {"f": ["road", "tree"], "c": ["sign"], "r": ["pole"]}


@pytest.fixture
def program():
    """Return experiments/run.py as a module."""
    return load_program(ROOT / "experiments" / "run.py")


def content():
    return {
        "title": "Roads",
        "description": "What the set-up is.",
        "config": "configs/some.yaml",
        "settings": {"SOLVER.MAX_ITER": 10},
        "test": "roads_test",
        "metrics": ["mIoU", "mIoU@r"],
        "seeds": [0, 1, 2],
        "choice": {"test": "roads_val", "seeds": [7, 8], "metric": "sem_seg/mIoU"},
        "methods": {
            "plain": [{}],
            "weights": [{"W": 1}, {"W": 2}],
            "sampling": [{"S": 1}],
            "SAR": [{"P": 0.1}, {"P": 1}],
            "both": {"together": ["SAR", "weights"]},
        },
        "ablations": {
            "of": "SAR",
            "seeds": [0, 2],
            "variants": {"no filter": {"F": 1}, "as it is": {}},
        },
    }


@pytest.fixture
def write(tmp_path):
    def write(changes=()):
        path = tmp_path / "roads.yaml"
        path.write_text(yaml.safe_dump(content() | dict(changes), sort_keys=False))
        return path

    return write


def row(cell, score, **changes):
    """The result of a cell, as run_cell gives it."""
    metrics = {f"sem_seg/{name}": score for name in ("mIoU", "mIoU@f", "mIoU@c", "mIoU@r")}
    metrics |= {f"sem_seg/IoU-{name}": score for names in GROUPS.values() for name in names}
    metrics |= {
        f"geometry/{name}": score / 100
        for name in ("NC1", "NC2_equinorm", "NC2_equiangularity", "NC3")
    }
    curves = {"iteration": [3.0, 6.0, 9.0], "loss_sem_seg": [2.0, 1.0, 0.5]}
    if "P" in cell.settings:
        curves |= {"loss_sar_pull": [0.0, 0.1, 0.1], "sar/gate_is_open": [0.0, 1.0, 1.0]}
    return {
        "study": cell.study, "key": cell.key, "config": cell.config, "settings": cell.settings,
        "test": cell.test, "seed": cell.seed, "metrics": metrics, "groups": GROUPS,
        "curves": curves, "seconds": 60, "seconds_per_iteration": 0.1, "cpu_seconds": 50,
        "resident_mib": 100, "gpu_mib": None, "commit": "abc", "device": "A CPU", "threads": 1,
        "versions": "torch 2",
    } | changes  # fmt: skip


def score(cell):
    """Weights 2 and pull 1 are the best; SAR and weights add up; a seed moves all alike."""
    settings = cell.settings
    return 40 + 3 * settings.get("W", 0) + 2 * settings.get("P", 0) + cell.seed


@pytest.fixture
def results(write):
    """Study, and the rows of all its cells."""
    study = read_study(write())
    rows = {cell.key: row(cell, score(cell)) for cell in study.choice_cells()}
    rows |= {cell.key: row(cell, score(cell)) for cell in study.cells(rows)}
    return study, rows


def test_what_is_chosen_is_trained_with_every_seed(results):
    study, rows = results
    choice_cells = study.choice_cells()
    assert len(choice_cells) == 2 * 6
    assert {cell.test for cell in choice_cells} == {"roads_val"}
    chosen = study.chosen(rows)
    assert chosen == {
        "plain": {}, "weights": {"W": 2}, "sampling": {"S": 1}, "SAR": {"P": 1},
        "both": {"P": 1, "W": 2},
    }  # fmt: skip
    cells = study.cells(rows)
    methods, ablations = cells[:15], cells[15:]
    assert [cell.seed for cell in methods] == [0] * 5 + [1] * 5 + [2] * 5
    assert ablations[0].settings == {"SOLVER.MAX_ITER": 10, "P": 1, "F": 1}
    # An ablation that changes nothing is the same training.
    assert [cell.seed for cell in ablations] == [0, 2, 0, 2]
    assert methods[3].key == ablations[2].key
    assert len({cell.key for cell in cells}) == 3 * 5 + 2


def test_methods_together_have_the_regularizers_of_both(write):
    methods = {"SAR": [{"R": ["a"], "P": 1}], "CeCo": [{"R": ["b"]}]}
    methods["both"] = {"together": ["SAR", "CeCo"]}
    study = read_study(
        write(
            {
                "methods": methods,
                "choice": None,
                "ablations": {"of": "", "seeds": [], "variants": {}},
            }
        )
    )
    assert study.chosen({})["both"] == {"R": ["a", "b"], "P": 1}


def test_a_key_is_of_all_that_a_result_depends_on():
    cell = {"study": "a", "config": "c", "settings": {"A": 1, "B": 2}, "test": "t", "seed": 0}
    key = Cell(**cell).key
    assert Cell(**cell | {"settings": {"B": 2, "A": 1}}).key == key
    assert Cell(**cell | {"study": "renamed"}).key == key
    for name, other in (("config", "d"), ("settings", {"A": 1}), ("test", "u"), ("seed", 1)):
        assert Cell(**cell | {name: other}).key != key


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"methods": {"plain": [{}], "both": {"together": ["SAR"]}}}, "is called SAR"),
        ({"ablations": {"of": "plane", "seeds": [], "variants": {}}}, "is called plane"),
        ({"ablations": {"of": "SAR", "seeds": [7], "variants": {}}}, "must be among seeds"),
        ({"choice": None}, "weights has several candidates, but choice is missing"),
        ({"seed": 1}, "expected .*found .*seed"),
        ({"settings": {}}, "settings lack the number of iterations"),
        ({"test": "roads_val", "seeds": [7]}, "choice and seeds share a seed"),
    ],
)
def test_a_wrong_study_is_refused(write, changes, message):
    with pytest.raises(InputError, match=message):
        read_study(write(changes))


def test_a_file_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("- 1")
    for name in ("a.yaml", "b.yaml"):
        with pytest.raises(InputError, match=name):
            read_study(tmp_path / name)


def test_the_studies_of_the_project_train_configs_that_are_there():
    paths = sorted(EXPERIMENTS.glob("*.yaml"))
    assert paths
    for path in paths:
        study = read_study(path)
        for cell in study.choice_cells():
            words = [str(word) for pair in cell.settings.items() for word in pair]
            load_config(str(ROOT / cell.config), words)
        for settings in study.variants.values():
            load_config("", [str(word) for pair in settings.items() for word in pair])


def test_camvid_takes_what_was_chosen_on_long_tail_shapes(program):
    shapes, camvid = (read_study(EXPERIMENTS / f"{name}.yaml") for name in STUDIES)
    rows = program.read_results(EXPERIMENTS / "results.jsonl")
    chosen = shapes.chosen(rows)
    for name, (settings,) in camvid.candidates.items():
        assert settings == chosen[name], name
    assert camvid.combinations == shapes.combinations


def test_what_is_beside_sar_is_what_was_chosen_alone(program):
    shapes = read_study(EXPERIMENTS / "longtail_shapes.yaml")
    chosen = shapes.chosen(program.read_results(EXPERIMENTS / "results.jsonl"))
    weights, sampling = chosen["class weights"], chosen["repeat-factor sampling"]
    for name, parts in (
        ("SAR + class weights", weights),
        ("SAR + repeat-factor", sampling),
        ("SAR + both", weights | sampling),
    ):
        added = {PULL_WEIGHT: chosen[name][PULL_WEIGHT]}
        assert chosen[name] == chosen["SAR over classes"] | parts | added, name


def test_the_longer_study_differs_in_its_schedule_alone(program):
    shapes, long = (
        read_study(EXPERIMENTS / f"{name}.yaml")
        for name in ("longtail_shapes", "longtail_shapes_long")
    )
    chosen = shapes.chosen(program.read_results(EXPERIMENTS / "results.jsonl"))
    for name, (settings,) in long.candidates.items():
        assert settings == chosen[name], name
    schedule = ("SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")
    with_schedule = {key: long.settings[key] for key in schedule}
    assert long.settings == shapes.settings | with_schedule
    assert (long.config, long.test) == (shapes.config, shapes.test)


def test_the_page_of_the_project_is_what_the_program_writes(program, tmp_path, monkeypatch):
    # The text is compared, so the figures may be empty.
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: path.touch())
    monkeypatch.setattr("matplotlib.figure.Figure.tight_layout", lambda figure: None)
    assert program.main(["--no-run", "--docs", str(tmp_path)]) == 0
    text = (tmp_path / "results.md").read_text()
    assert text == (ROOT / "docs" / "results.md").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {
        path.name for path in (ROOT / "docs").glob("results-*.png")
    }


def test_the_page_has_the_numbers_of_the_results(results, tmp_path):
    study, rows = results
    write_page([study], rows, Outputs(tmp_path))
    text = (tmp_path / "results.md").read_text()
    # Over seeds 0, 1, 2 plain is 40, 41, 42; all differences are the same in every seed.
    assert "| plain " in text and "41.00" in text
    assert "47.00<br>**+6.00 [+6.00, +6.00]**" in text
    assert "49.00<br>**+8.00 [+8.00, +8.00]**" in text
    assert "*both* combines SAR with weights." in text
    # Methods in pairs: both is 2 above weights, in every seed.
    assert "**+2.0**" in text and "**-8.0**" in text
    assert "| no filter" in text and "| as it is" in text
    assert "A CPU, 1 thread(s) per training" in text
    for figure in ("methods", "losses"):
        assert f"(results-roads-{figure}.png)" in text
        assert (tmp_path / f"results-roads-{figure}.png").stat().st_size > 1000
    order = [text.index(f"| {name} ") for name in ("road", "tree", "sign", "pole")]
    assert order == sorted(order)


def test_one_metric_and_a_gate_that_closes_again(results, tmp_path):
    study, rows = results
    for row in rows.values():
        if "sar/gate_is_open" in row["curves"]:
            row["curves"]["sar/gate_is_open"] = [0.0, 1.0, 0.5]
    write_page([replace(study, metrics=["mIoU"])], rows, Outputs(tmp_path))
    losses = (tmp_path / "results.md").read_text().split("### Losses")[1].split("###")[0]
    opened = {line.split("|")[2].strip() for line in losses.splitlines() if line.startswith("| S")}
    assert opened == {"-"}


def test_costs_of_one_commit_alone_are_compared(results, tmp_path):
    """Interrupted trainings are left out, too: their cost is not known."""
    study, rows = results
    for seed, is_resumed in ((0, True), (1, False), (2, True)):
        key = study.cell(study.chosen(rows)["both"], seed).key
        cost = 200.0 if is_resumed else 30.0
        rows[key] |= {"cpu_seconds": cost, "is_resumed": is_resumed, "commit": "1a"}
    chosen = study.chosen(rows)
    for name, commit, seconds in (("weights", "1a", 20.0), ("SAR", "2b", 300.0)):
        for seed in study.seeds:
            ours, reference = (rows[study.cell(chosen[n], seed).key] for n in (name, "plain"))
            ours["cpu_seconds"], reference["cpu_seconds"] = seconds, 10.0
            ours["commit"], reference["commit"] = commit, "1a"
    write_page([study], rows, Outputs(tmp_path))
    text = (tmp_path / "results.md").read_text()
    costs = text.split("### Cost of training")[1].split("###")[0]
    lines = [line.split("|") for line in costs.splitlines() if line.startswith("|")]
    found = {line[1].strip(): line[2].strip() for line in lines}
    assert found["weights"] == "2.00" and found["SAR"] == "-" and found["both"] == "3.00"


def test_the_page_shows_what_is_trained_with_every_seed(results, tmp_path):
    study, rows = results
    page = Outputs(tmp_path)

    def text():
        write_page([study], rows, page)
        return (tmp_path / "results.md").read_text()

    def drop(name, seed):
        del rows[study.cell(study.chosen(rows)[name], seed).key]

    assert "Not trained yet" not in text()
    del rows[study.cells(rows)[-3].key]
    assert "| as it is" in text() and "| no filter" not in text()
    drop("SAR", 1)  # not a seed of the ablations
    assert "Not trained yet: SAR." in text() and "| as it is" in text()
    drop("both", 0)
    drop("SAR", 2)
    assert "| weights " in text() and "| both " not in text()
    assert "Not trained yet: SAR, both." in text() and "Ablations" not in text()
    drop("plain", 2)
    assert "Roads" not in text()


def test_a_study_of_some_methods(results):
    study, rows = results
    some = study.only(["both", "plain"])
    assert {tuple(cell.settings.items()) for cell in some.choice_cells()} == {
        (("SOLVER.MAX_ITER", 10), *settings.items())
        for settings in ({}, {"W": 1}, {"W": 2}, {"P": 0.1}, {"P": 1})
    }
    assert [cell.key for cell in some.cells(rows)] == [
        study.cell(settings, seed).key for seed in (0, 1, 2) for settings in ({}, {"P": 1, "W": 2})
    ]
    with pytest.raises(InputError, match='Roads has no method "wieghts". Did you mean "weights"?'):
        study.only(["plain", "wieghts"])


def test_finished_trainings_are_kept_and_failed_ones_are_said(
    program, write, tmp_path, monkeypatch, capsys
):
    calls = []

    class FakeTraining:
        def __init__(self, cell, folder, **options):
            self.cell, self.folder = cell, folder
            calls.append(cell.key)
            self.fails = cell.settings.get("S") and cell.seed == 8 and len(calls) < 13

        def is_done(self):
            return True

        def result(self):
            if self.fails:
                raise InputError("no space left")
            return row(self.cell, score(self.cell))

    monkeypatch.setattr(program, "Training", FakeTraining)
    monkeypatch.setattr(schedule, "_PERIOD", 0)
    monkeypatch.setattr(program, "STUDIES", [])
    words = [str(write()), "--jobs", "2", "--output", str(tmp_path / "output")]
    words += ["--results", str(tmp_path / "results.jsonl"), "--docs", str(tmp_path)]
    assert program.main(words) == 1
    # What is reported waits until everything is there to choose by.
    assert len(calls) == 12
    assert "no space left" in capsys.readouterr().err
    assert program.main([*words, "--methods", "plain"]) == 0
    assert len(calls) == 12 + 3
    assert program.main(words) == 0
    assert len(calls) == 12 + 1 + 17
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows) == 12 + 17
    assert "+8.00 [+8.00, +8.00]" in (tmp_path / "results.md").read_text()
    assert program.main([*words, "--no-run"]) == 0
    assert len(calls) == 12 + 1 + 17


def test_a_broken_results_file_is_said(program, tmp_path, capsys):
    (tmp_path / "results.jsonl").write_text('{"key": "a"}\n{"key"')
    assert program.main(["--no-run", "--results", str(tmp_path / "results.jsonl")]) == 1
    assert "results.jsonl, line 2" in capsys.readouterr().err


def test_curves_are_means_of_parts_of_the_training():
    lines = [{"iteration": i, "total_loss": 1.0, "loss_a": float(i)} for i in range(41)]
    found = curves([*lines, {"iteration": 41, "sem_seg/mIoU": 3.0}])
    assert found["iteration"] == [2.0, 5.0, *range(8, 39, 3), 40.0]
    assert found["loss_a"] == [1.0, 4.0, *range(7, 38, 3), 39.5]


@pytest.mark.parametrize("num_lines", [3, 21, 22, 23])
def test_the_last_row_of_a_training_may_lack_the_gate(num_lines):
    lines = [
        {"iteration": i, "total_loss": 1.0, "loss_a": 2.0, "sar/gate_is_open": float(i > 0)}
        for i in range(num_lines)
    ]
    del lines[-1]["sar/gate_is_open"]
    found = curves(lines)
    assert found["sar/gate_is_open"][-1] == 1.0
    assert {len(points) for points in found.values()} == {len(found["iteration"])}


@pytest.mark.slow
def test_a_study_from_its_file_to_its_page(tmp_path):
    study = {
        "title": "Trial",
        "description": "Two steps.",
        "config": "configs/LongTailShapes/baseline_sem_fpn_R_18.yaml",
        "settings": {
            "SOLVER.MAX_ITER": 20, "SOLVER.IMS_PER_BATCH": 2, "INPUT.CROP.SIZE": "(32, 32)",
            "INPUT.MIN_SIZE_TRAIN": "(32, 64)", "INPUT.MIN_SIZE_TEST": 32,
            "MODEL.FPN.OUT_CHANNELS": 16, "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
            "DATALOADER.NUM_WORKERS": 0, "DATASETS.CHECK": False,
        },
        "test": "longtail_shapes_val",
        "metrics": ["mIoU", "mIoU@r"],
        "seeds": [0, 1],
        "methods": {
            "plain": [{}],
            "SAR": [{"MODEL.REGULARIZERS": "('SemanticAnchorRegularizer',)"}],
        },
    }  # fmt: skip
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    command = [
        sys.executable,
        ROOT / "experiments" / "run.py",
        tmp_path / "trial.yaml",
    ]
    command += ["--results", tmp_path / "results.jsonl", "--output", tmp_path / "output"]
    command += ["--docs", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        assert 0 <= row["metrics"]["sem_seg/mIoU"] <= 100 and row["metrics"]["geometry/NC1"] > 0
        assert row["seconds_per_iteration"] > 0 and row["resident_mib"] > 100
        assert ("loss_sar_pull" in row["curves"]) == ("MODEL.REGULARIZERS" in row["settings"])
    assert "## Trial" in (tmp_path / "results.md").read_text()
    # A method differs from plain by what it is, not by its data.
    first = [row["curves"]["loss_sem_seg"][0] for row in rows if row["seed"] == 0]
    assert abs(first[0] / first[1] - 1) < 0.05


def test_a_folder_of_the_user_is_not_replaced_by_a_training(results, tmp_path):
    study, _ = results
    (tmp_path / "notes.txt").write_text("the user's")
    with pytest.raises(InputError, match="does not hold this training of a study"):
        Training(study.choice_cells()[0], tmp_path, command=["true"], threads=1, device="cpu")
    assert (tmp_path / "notes.txt").read_text() == "the user's"


def test_a_page_of_the_user_is_refused_first(program, write, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "STUDIES", [])
    monkeypatch.setattr(program, "Training", lambda *args, **options: pytest.fail("it trained"))
    (tmp_path / "results.md").write_text("the user's")
    words = [str(write()), "--output", str(tmp_path / "output"), "--docs", str(tmp_path)]
    assert program.main([*words, "--results", str(tmp_path / "results.jsonl")]) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "results.md").read_text() == "the user's"
