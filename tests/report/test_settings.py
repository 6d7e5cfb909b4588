"""Which settings of runs differ, and whether their comparison is fair."""

import itertools
import json
from pathlib import Path

import pytest

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.report import find_runs
from sar.report.settings import compare_settings

CONFIGS = Path(__file__).parents[2] / "configs"
EVALUATION = {"class_names": ["a"], "metrics": {"mIoU": 1, "IoU-a": 1}, "num_images": 1}


@pytest.fixture
def make_run(tmp_path):
    def make(name, *overrides, config="", last_iteration=9, checkpoint="", **changes):
        """An OUTPUT_DIR with config.yaml, metrics.json and an evaluation; its path.

        `changes` are to the JSON file of the evaluation.
        """
        folder = tmp_path / name
        path = folder / "inference" / checkpoint / "roads_val" / "sem_seg_evaluation.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(EVALUATION | changes))
        cfg = load_config(config, ["OUTPUT_DIR", str(folder), *map(str, overrides)])
        (folder / "config.yaml").write_text(cfg.dump())
        if last_iteration is not None:
            lines = [json.dumps({"iteration": i, "total_loss": 1}) for i in (0, last_iteration)]
            (folder / "metrics.json").write_text("\n".join([*lines, '{"iter']))
        return str(folder)

    return make


def settings_of(*words):
    runs = find_runs(words)
    return compare_settings(runs, [run.folder.name for run in runs], "roads_val")


def test_runs_of_one_config_differ_in_nothing(make_run, tmp_path):
    words = []
    for seed in (1, 2):
        file = tmp_path / f"run_{seed}" / "class_frequency.json"  # of its own OUTPUT_DIR
        words.append(make_run(f"run_{seed}", "SEED", seed, "DATASETS.CLASS_FREQUENCY", file))
    assert settings_of(*words) == {"rows": [], "unfair": "", "notes": []}


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("SOLVER.MAX_ITER", "100", "length"),
        ("SOLVER.IMS_PER_BATCH", "2", "batch size"),
        ("DATASETS.FOLDER", "somewhere", "data"),
        ("DATASETS.TRAIN", "('camvid_train',)", "data"),
        ("INPUT.CROP.SIZE", "(64, 64)", "input size or augmentation"),
        ("INPUT.COLOR_JITTER", "0.5", "input size or augmentation"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "schedule or optimizer"),
        ("SOLVER.OPTIMIZER", "ADAMW", "schedule or optimizer"),
        ("SOLVER.BASE_LR", "0.5", "schedule or optimizer"),
        ("MODEL.WEIGHTS", "elsewhere/weights.pth", "backbone, head or weights"),
        ("MODEL.BACKBONE.NAME", "build_timm_backbone", "backbone, head or weights"),
        ("MODEL.RESNETS.DEPTH", "18", "backbone, head or weights"),
        ("MODEL.SEM_SEG_HEAD.NAME", "FCNHead", "backbone, head or weights"),
        ("TEST.MODE", "slide", "evaluation"),
    ],
)
def test_unfair_comparisons(make_run, key, value, kind):
    settings = settings_of(make_run("a"), make_run("b", key, value))
    (row,) = settings["rows"]
    assert (row["key"], row["kind"], row["is_unfair"]) == (key, kind, True)
    assert len(set(row["values"])) == 2
    assert settings["unfair"].startswith("Not a fair comparison: ")
    assert f"{kind} ({key})" in settings["unfair"]


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("MODEL.REGULARIZERS", "('SemanticAnchorRegularizer',)", "the method"),
        ("MODEL.SEMANTIC_ANCHOR.PULL_WEIGHT", "1.0", "the method"),
        ("MODEL.CENTER_COLLAPSE.WEIGHT", "0.8", "the method"),
        ("MODEL.LOSS.NAME", "seesaw", "the method"),
        ("MODEL.META_ARCHITECTURE", "RegularizedPanopticFPN", "the method"),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "the method"),
        ("DATASETS.CLASS_FREQUENCY", "counts.json", "the method"),
        ("INPUT.CROP.CLASS_UNIFORM", "0.5", "the method"),
        ("INPUT.POINTS.CLASS_UNIFORM", "0.5", "the method"),
        ("MODEL.TAP.EMBEDDING", "sem_seg_head.last", "the method"),
        ("DATASETS.TEST", "('roads_val', 'fields_val')", ""),
        ("DATALOADER.NUM_WORKERS", "1", ""),
        ("SOLVER.CHECKPOINT_PERIOD", "7", ""),
        ("TEST.PICTURES", "0", ""),
    ],
)
def test_methods_and_what_changes_no_metric_may_differ(make_run, key, value, kind):
    settings = settings_of(make_run("a"), make_run("b", key, value))
    (row,) = settings["rows"]
    assert (row["key"], row["kind"], row["is_unfair"]) == (key, kind, False)
    assert settings["unfair"] == ""


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*/baseline_*.yaml")), ids=str)
def test_the_projects_own_methods_are_compared_fairly(make_run, config):
    others = [config.with_name(config.name.replace("baseline", x)) for x in ("sar", "ceco")]
    words = [make_run(x.stem, config=str(x)) for x in (config, *others)]
    settings = settings_of(*words)
    assert settings["unfair"] == ""
    assert "MODEL.REGULARIZERS" in [row["key"] for row in settings["rows"]]


def test_values_of_each_method_unfair_ones_first(make_run):
    words = [f"plain={make_run(f'plain_{n}', 'SOLVER.MAX_ITER', n)}" for n in (10, 20)]
    ours = ("MODEL.REGULARIZERS", "('SemanticAnchorRegularizer',)", "SOLVER.MAX_ITER", "10")
    words.append(f"sar={make_run('sar', *ours)}")
    length, method = settings_of(*words)["rows"]
    assert length["values"] == ["10; 20", "10"]
    assert method["values"] == ["none", "SemanticAnchorRegularizer"]


def test_methods_under_one_name_are_noted(make_run):
    runs = [make_run("a/run"), make_run("b/run", "MODEL.REGULARIZERS", "('A',)"), make_run("c")]
    (note,) = settings_of(*runs)["notes"]
    assert note.startswith("The runs called run differ in MODEL.REGULARIZERS, but count as seeds")
    assert settings_of(f"plain={runs[0]}", f"sar={runs[1]}")["notes"] == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.REGULARIZERS", "('A', 'B')", ["none", "A, B"]),
        ("MODEL.LOSS.NAME", "seesaw", ["none", "seesaw"]),
        ("INPUT.CROP.SIZE", "[64, 32]", ["0.9, 0.9", "64, 32"]),
        ("INPUT.CROP.ENABLED", "True", ["False", "True"]),
    ],
)
def test_values_are_shown_in_words(make_run, key, value, words):
    (row,) = settings_of(make_run("a"), make_run("b", key, value))["rows"]
    assert row["values"] == words


def test_iterations_that_were_really_done(make_run):
    words = [make_run(f"run_{n}", last_iteration=n) for n in (99, 49, None)]
    settings = settings_of(*words)
    (row,) = settings["rows"]
    assert row["values"] == ["100", "50", "not known"]
    assert "length (iterations done)" in settings["unfair"]


def test_the_evaluation_at_the_end_is_no_iteration(make_run):
    words = [make_run("a"), make_run("b", weights={"iteration": 9}), make_run("c")]
    for word in words[1:]:
        with open(Path(word) / "metrics.json", "a") as file:
            file.write('\n{"iteration": 10, "sem_seg/mIoU": 1}')
    assert settings_of(*words) == {"rows": [], "unfair": "", "notes": []}


@pytest.mark.parametrize(
    "checkpoints", list(itertools.combinations(["", "model_best", "model_final"], 2))
)
def test_metrics_of_the_best_checkpoint_and_of_the_last(make_run, checkpoints):
    words = [make_run(f"run_{i}", checkpoint=name) for i, name in enumerate(checkpoints)]
    unfair = settings_of(*words)["unfair"]
    assert ("evaluated checkpoint" in unfair) == ("model_best" in checkpoints)


def test_a_resume_with_other_settings_is_told(make_run):
    words = [make_run("a"), make_run("b")]
    config = Path(words[1]) / "config.yaml"
    for iteration, (key, value) in {40: ("BASE_LR", 0.5), 60: ("MAX_ITER", 7)}.items():
        cfg = load_config(str(config))
        cfg.SOLVER[key] = value
        Path(words[1], f"config-until-{iteration:07d}.yaml").write_text(cfg.dump())
    settings = settings_of(*words)
    assert settings["rows"] == []
    assert settings["notes"] == [
        "The comparison may not be fair: until iteration 40, b was trained with other settings "
        "(SOLVER.BASE_LR; config-until-0000040.yaml)."
    ]
    Path(words[1], "config-until-0000040.yaml").write_text("NO_SUCH_KEY: 1")
    (note,) = settings_of(*words)["notes"]
    assert note.startswith("The settings of b until iteration 40 are not known")


def test_runs_without_a_readable_config_are_named(make_run, tmp_path):
    words = [make_run(name) for name in ("a", "b", "c")]
    (tmp_path / "b" / "config.yaml").unlink()
    (tmp_path / "c" / "config.yaml").write_text("NO_SUCH_KEY: 1")
    settings = settings_of(*words)
    first, second = settings["notes"]
    assert first == f"The settings of b are not known: file not found: {tmp_path}/b/config.yaml"
    assert second.startswith("The settings of c are not known") and "NO_SUCH_KEY" in second
    assert settings["rows"] == [] and settings["unfair"] == ""


def unfair_row(settings):
    """The only row, which says why the comparison is not fair."""
    (row,) = settings["rows"]
    assert row["is_unfair"]
    assert f"{row['kind']} ({row['key']})" in settings["unfair"]
    return row


def save_counts(folder, *, num_images=4, pixels=(40,), fingerprint=""):
    frequency = ClassFrequency(
        ("a",), num_images, (num_images,), pixels, ignored_pixels=0, fingerprint=fingerprint
    )
    frequency.save(Path(folder) / "class_frequency.json")


@pytest.mark.parametrize("other", [{"num_images": 2}, {"pixels": (39,)}])
def test_other_training_labels_at_the_same_place_are_unfair(make_run, other):
    words = [make_run("a"), make_run("b")]
    save_counts(words[0])
    save_counts(words[1], **other)
    row = unfair_row(settings_of(*words))
    assert (row["key"], row["kind"]) == ("training labels", "data")
    assert row["values"][0].startswith("4 images, 40 pixels") and len(set(row["values"])) == 2


def test_counts_of_a_given_file_may_be_those_of_other_data(make_run):
    words = [make_run("a"), make_run("b", "DATASETS.CLASS_FREQUENCY", "counts.json")]
    save_counts(words[0])
    save_counts(words[1], num_images=2, fingerprint="2")
    settings = settings_of(*words)
    assert [row["key"] for row in settings["rows"]] == ["DATASETS.CLASS_FREQUENCY"]
    assert settings["unfair"] == "" and settings["notes"] == []


def test_other_evaluation_labels_are_unfair(make_run):
    confusions = ([[2, 1], [0, 3]], [[1, 2], [3, 0]], [[3, 0], [1, 3]])
    names = {"class_names": ["a", "b"], "metrics": {"mIoU": 1, "IoU-a": 1, "IoU-b": 1}}
    words = [
        make_run(f"run_{i}", confusion_truth_by_prediction=confusion, **names)
        for i, confusion in enumerate(confusions)
    ]
    assert settings_of(*words[:2])["unfair"] == ""  # the same labels, other predictions
    row = unfair_row(settings_of(*words))
    assert (row["key"], row["kind"]) == ("evaluation labels", "data")
    assert row["values"][0] == row["values"][1] != row["values"][2]


def test_label_files_that_were_written_again_are_noted(make_run):
    words = []
    for name in ("1", "2"):
        words.append(make_run(name, data={"fingerprint": name}))
        save_counts(words[-1], fingerprint=name)
    settings = settings_of(*words)
    assert settings["rows"] == [] and settings["unfair"] == ""
    training, evaluation = settings["notes"]
    assert "may not be fair: the files of the training labels differ" in training
    assert "may not be fair: the files of the evaluation labels differ" in evaluation


@pytest.mark.parametrize(
    ("key", "value", "name", "kind"),
    [
        ("TEST.AUG.ENABLED", True, "TEST.AUG.ENABLED", "evaluation"),
        ("TEST.MODE", "slide", "TEST.MODE", "evaluation"),
        ("INPUT.MIN_SIZE_TEST", 8, "INPUT.MIN_SIZE_TEST", "input size or augmentation"),
        ("INPUT.FORMAT", "RGB", "evaluation: INPUT.FORMAT", "evaluation"),
        ("INPUT.POINTS.VOXEL_SIZE", 0.1, "evaluation: INPUT.POINTS.VOXEL_SIZE", "evaluation"),
        ("DATASETS.FOLDER", "/mine", "evaluation: DATASETS.FOLDER", "evaluation"),
    ],
)
def test_settings_of_the_evaluation_count_not_those_of_the_training(
    make_run, key, value, name, kind
):
    words = [make_run("a"), make_run("b", checkpoint="model_final")]
    path = next(Path(words[1]).rglob("sem_seg_evaluation.json"))
    path.write_text(json.dumps(EVALUATION | {"config": {key: value}}))
    row = unfair_row(settings_of(*words))
    assert (row["key"], row["kind"]) == (name, kind)


def test_a_training_with_other_test_settings_that_was_evaluated_alike_is_fair(make_run):
    words = [make_run("a"), make_run("b", "TEST.AUG.ENABLED", True, "INPUT.FORMAT", "RGB")]
    for word, config in zip(words, ({}, {"INPUT.FORMAT": "RGB"}), strict=True):
        path = next(Path(word).rglob("sem_seg_evaluation.json"))
        path.write_text(json.dumps(EVALUATION | {"config": config}))
    assert unfair_row(settings_of(*words))["key"] == "INPUT.FORMAT"  # once


def test_metrics_of_a_training_that_went_on_are_those_of_the_evaluation(make_run):
    words = [make_run("a"), make_run("b", last_iteration=19, weights={"iteration": 9})]
    settings = settings_of(*words)
    assert settings["rows"] == []
    (note,) = settings["notes"]
    assert "continued after its evaluation on roads_val" in note and "after 10 of 20 iter" in note
