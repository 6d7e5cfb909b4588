import json
import math
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sar.config import load_config
from sar.study.comparison import METRICS
from sar.study.matrix import Study
from sar.study.summary import advise, summarize

CONFIG = "configs/Folder/baseline_sem_fpn_R_18.yaml"
METHODS = {
    "plain": {},
    "A": {"MODEL.REGULARIZERS": ["CenterCollapseRegularizer"]},
    "B": {"SEED": 1},
}


@pytest.fixture
def study():
    return Study(
        title="mine", description="", config=CONFIG, test="mine_val", held_out="mine_test",
        settings={"SOLVER.MAX_ITER": 50, "TEST.PICTURES": 0, "DATASETS.FOLDER": "/my roads"},
        metrics=METRICS, seeds=range(3), methods=list(METHODS),
        candidates={name: [settings] for name, settings in METHODS.items()},
    )  # fmt: skip


def values(name, seed, metric):
    """Made-up results: A is better than plain, B is better for classes with few pixels."""
    noise = math.sin(97 * seed + 13 * METRICS.index(metric) + len(name))
    return 40 + 10 * (name == "A") + 30 * (name == "B" and metric == "mIoU@r_pixel") + noise


@pytest.fixture
def rows(study):
    rows = {}
    for name, settings in METHODS.items():
        for seed in study.seeds:
            metrics = {f"sem_seg/{metric}": values(name, seed, metric) for metric in METRICS}
            rows[study.cell(settings, seed).key] = {
                "metrics": metrics, "seconds_per_iteration": 0.25 + seed,
                "held_out_metrics": {key: value - 5 for key, value in metrics.items()},
                "groups": {"f": ["road"], "c": [], "r": ["pole", "si\x1bgn"]},
            }  # fmt: skip
    return rows


def tables(text):
    """The cells of each table, by the name of the row."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
        found.append({line[0]: line[1:] for line in lines if not line[0].startswith(":")})
    return found


def test_tables_have_means_and_paired_differences(study, rows):
    means, differences, test_means, *_ = tables(summarize(study, rows))
    assert means[""] == ["seeds", *METRICS, "s/iteration"]
    assert differences[""] == ["mIoU", "mIoU@r", "mIoU@r_pixel"]
    assert list(differences) == ["", "A", "B"]
    for name in METHODS:
        of = {
            metric: np.array([values(name, seed, metric) for seed in range(3)])
            for metric in METRICS
        }
        assert means[name] == ["3", *(f"{of[metric].mean():.2f}" for metric in METRICS), "1.25"]
        assert test_means[name][1:-1] == [f"{of[metric].mean() - 5:.2f}" for metric in METRICS]
        for metric, cell in zip(differences[""], differences.get(name, ()), strict=False):
            plain = [values("plain", seed, metric) for seed in range(3)]
            expected = stats.ttest_rel(of[metric], plain)
            interval = expected.confidence_interval(0.95)
            numbers = [float(word) for word in re.findall(r"[+-][\d.]+", cell)]
            mean = np.mean(of[metric] - plain)
            np.testing.assert_allclose(numbers, [mean, interval.low, interval.high], atol=0.006)
            assert cell.startswith("**") == (expected.pvalue < 0.05)


def test_a_method_is_recommended_for_each_kind_of_rare_class(study, rows):
    text = summarize(study, rows)
    parts = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert [part.splitlines()[0] for part in parts] == [
        "All classes count the same (mIoU)",
        "Only the classes on the fewest images count (mIoU@r): pole, si\\x1bgn",
        "Only the classes with the fewest pixels count (mIoU@r_pixel)",
    ]
    assert ["Use **A**" in part for part in parts] == [True, True, False]
    assert "Use **B**" in parts[2]
    assert "No choice above uses these numbers" in text


def test_the_command_of_a_method_has_what_the_user_gave(study, rows):
    changed = replace(study, settings=study.settings | {"TEST.PICTURES": 0, "TEST.MODE": "slide"})
    rows = {
        changed.cell(of, seed).key: rows[study.cell(of, seed).key]
        for of in METHODS.values()
        for seed in study.seeds
    }
    text = summarize(changed, rows, ["my model.py"])
    (command,) = (line.strip() for line in text.splitlines() if "train_net.py" in line)
    assert command.startswith("python train_net.py --import 'my model.py' --config-file ")
    assert command.endswith("TEST.MODE slide") and "PICTURES" not in command


def test_words_of_point_clouds(study, rows):
    config = "configs/Folder/baseline_sparse_unet.yaml"
    rows = {
        replace(study, config=config).cell(of, seed).key: rows[study.cell(of, seed).key]
        for of in METHODS.values()
        for seed in study.seeds
    }
    text = summarize(replace(study, config=config), rows)
    assert "Only the classes in the fewest clouds count (mIoU@r): pole" in text
    assert "Only the classes with the fewest points count (mIoU@r_pixel)" in text


def test_metrics_without_ground_truth_are_left_out(study, rows):
    for row in rows.values():
        row["metrics"]["sem_seg/mIoU@r"] = float("nan")
        row["metrics"]["sem_seg/mIoU@r_pixel"] = row["metrics"]["sem_seg/mIoU"]
    means, differences, *_ = tables(summarize(study, rows))
    assert "mIoU@r" not in means[""] and differences[""] == ["mIoU", "mIoU@r_pixel"]
    assert summarize(study, rows).count("\n### ") == 1  # the same numbers as mIoU
    sentence = (
        "No evaluated label shows a class of the group, so these metrics are left out: mIoU@r."
    )
    assert summarize(study, rows).count(sentence) == 1  # the test split has the metric
    assert advise(study, rows)["notes"] == [sentence]


def test_missing_trainings_are_named_and_left_out(study, rows):
    del rows[study.cell(METHODS["A"], 1).key]
    for seed in study.seeds:
        del rows[study.cell(METHODS["B"], seed).key]
    text = summarize(study, rows)
    assert "**Missing trainings:** A (1), B (3). A mean over fewer seeds cannot be compared" in text
    means, differences, *_ = tables(text)
    assert means["plain"][0] == "3" and means["A"][0] == "2 of 3"
    assert means["B"] == ["0 of 3", *["-"] * 6]
    plain = [values("plain", seed, "mIoU") for seed in (0, 2)]
    mean = np.mean([values("A", seed, "mIoU") for seed in (0, 2)]) - np.mean(plain)
    assert differences["A"][0].startswith(f"{mean:+.2f} [") and differences["B"] == ["-"] * 3
    assert "Certainty: none" in text and "Use **" not in text and "**+" not in text


def test_nothing_is_finished(study):
    text = summarize(study, {})
    assert "A (3)" in text and "Recommendation" not in text


def test_the_command_and_the_keys_train_a_method(study, rows):
    text = summarize(study, rows)
    (command,) = re.findall(r"^    python train_net.py (.*)$", text, re.MULTILINE)
    assert "TEST.PICTURES" not in command and "'/my roads'" in command
    keys = {name: cells[0].strip("`") for name, cells in tables(text)[-2].items()}
    assert keys["plain"] == "-" and keys["B"] == "SEED 1"
    _, config, *words = shlex.split(f"{command} {keys['A']}")
    cfg = load_config(config, words)
    assert (cfg.DATASETS.FOLDER, cfg.SOLVER.MAX_ITER) == ("/my roads", 50)
    assert cfg.MODEL.REGULARIZERS == ("CenterCollapseRegularizer",)


def test_each_training_has_its_miou(study, rows):
    trainings = tables(summarize(study, rows))[-1]
    assert trainings[""] == ["seed 0", "seed 1", "seed 2"] and list(trainings) == ["", *METHODS]
    for name, settings in study.chosen({}).items():
        for seed, shown in zip(study.seeds, trainings[name], strict=True):
            row = rows.get(study.cell(settings, seed).key)
            expected = f"{row['metrics']['sem_seg/mIoU']:.2f}" if row else "-"
            assert shown == expected


def test_a_method_can_be_called_like_a_number(study, rows):
    methods = {"1e3": METHODS["plain"], "A": METHODS["A"]}
    candidates = {name: [settings] for name, settings in methods.items()}
    text = summarize(replace(study, methods=list(methods), candidates=candidates), rows)
    means, *_, keys = tables(text)
    assert "1e3" in means and "1e3" in keys


def test_the_page_has_the_sentences_and_differences_of_the_text(study, rows):
    del rows[study.cell(METHODS["B"], 2).key]
    text, advice = summarize(study, rows), advise(study, rows)
    assert json.loads(json.dumps(advice, allow_nan=False)) == advice
    (missing,) = advice["notes"]
    assert missing.startswith("**Missing trainings:** B (1).") and missing in text
    assert [one["question"] in text for one in advice["recommendations"]] == [True] * 3
    for one in advice["recommendations"]:
        assert "\n".join(one["sentences"]) in text
    assert advice["limits"] in text and advice["caption"] in text
    differences = tables(text)[1]
    assert advice["metrics"] == differences[""] == ["mIoU", "mIoU@r", "mIoU@r_pixel"]
    assert {one["name"]: one["cells"] for one in advice["differences"]} == {
        name: differences[name] for name in ("A", "B")
    }
    assert advise(study, {}) is None


def test_code_that_changed_between_trainings_is_named(study, rows):
    for index, row in enumerate(rows.values()):
        row["imports"] = {"same.py": "a", "heads.py": "old" if index else "new"}
    text, advice = summarize(study, rows), advise(study, rows)
    (note,) = advice["notes"]
    assert "changed between trainings (heads.py)" in note and note in text
