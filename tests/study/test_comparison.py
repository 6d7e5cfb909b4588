import os
import shutil
from dataclasses import replace

import pytest
import yaml

from sar.advice.balance import LOVASZ
from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError
from sar.study.comparison import (
    check_methods,
    default_iterations,
    folder_name,
    plan_comparison,
    read_files,
    read_methods,
    trainings,
)

CONFIG = "configs/Folder/baseline_sem_fpn_R_18.yaml"
WEIGHTS = {"MODEL.LOSS.NAME": "cross_entropy", "MODEL.LOSS.CLASS_WEIGHTS": "median_frequency"}
METHODS = {"plain": {}, "class weights": WEIGHTS}


def plan(folder, *overrides, methods=METHODS, config=CONFIG, **options):
    return plan_comparison(methods, config, overrides, folder=folder, **options)


def test_the_methods_of_the_project_are_what_their_names_say():
    methods = read_methods("configs/compare.yaml")
    assert list(methods)[0] == "plain" and methods["plain"] == {}
    assert methods["Lovász"] == LOVASZ
    weights, repeat = methods["class weights"], methods["repeat-factor sampling"]
    assert methods["Lovász + repeat-factor"] == LOVASZ | repeat
    assert weights == WEIGHTS and methods["class weights + repeat-factor"] == weights | repeat
    for name, settings in methods.items():
        words = [str(word) for pair in settings.items() for word in pair]
        cfg = load_config(CONFIG, words)
        file = {"SAR": "sar", "CeCo": "ceco", "Lovász + repeat-factor": "recommended"}.get(name)
        if file:
            expected = load_config(CONFIG.replace("baseline", file))
            expected.OUTPUT_DIR = cfg.OUTPUT_DIR
            assert cfg == expected, name


def test_methods_take_the_keys_of_their_base(tmp_path):
    (tmp_path / "sar.yaml").write_text("MODEL: {REGULARIZERS: [A], MASK_ON: true}\n")
    (tmp_path / "methods.yaml").write_text(
        "plain:\n'1.5': {_BASE_: sar.yaml, MODEL: {MASK_ON: false}, SEED: 2}\n"
    )
    assert read_methods(tmp_path / "methods.yaml") == {
        "plain": {},
        "1.5": {"MODEL.REGULARIZERS": ["A"], "MODEL.MASK_ON": False, "SEED": 2},
    }


def test_methods_take_the_keys_of_several_bases(tmp_path):
    (tmp_path / "a.yaml").write_text("MODEL: {MASK_ON: true}\nSEED: 1\n")
    (tmp_path / "b.yaml").write_text("SEED: 2\n")
    (tmp_path / "methods.yaml").write_text("plain:\nboth: {_BASE_: [a.yaml, b.yaml]}\n")
    both = read_methods(tmp_path / "methods.yaml")["both"]
    assert both == {"MODEL.MASK_ON": True, "SEED": 2}


def test_a_copy_of_the_methods_works_in_any_folder(tmp_path):
    copy = shutil.copy("configs/compare.yaml", tmp_path / "mine.yaml")
    assert read_methods(copy) == read_methods("configs/compare.yaml")
    (tmp_path / "more.yaml").write_text("_BASE_: mine.yaml\nmine: {SEED: 1}\n")
    more = read_methods(tmp_path / "more.yaml")
    assert more == {**read_methods(copy), "mine": {"SEED": 1}}


def test_a_base_of_the_package_is_used_if_the_folder_has_none(tmp_path):
    path = tmp_path / "methods.yaml"
    path.write_text("plain: {}\nSAR: {_BASE_: configs/methods/sar.yaml}\n")
    expected = ["SemanticAnchorRegularizer"]
    assert read_methods(path)["SAR"]["MODEL.REGULARIZERS"] == expected


@pytest.mark.parametrize(
    "content, message",
    [
        ("plain: {}", "expected two methods or more, found 1"),
        ("a: {}\nb: 3", "expected config keys below the method b, found 3"),
        ("a: {}\nb: {_BASE_: nowhere.yaml}", "nowhere.yaml cannot be read"),
    ],
)
def test_wrong_methods_are_refused(tmp_path, content, message):
    (tmp_path / "methods.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        read_methods(tmp_path / "methods.yaml")


def test_a_comparison_trains_all_methods_with_each_seed(folder):
    study = plan(folder, "SOLVER.BASE_LR", "0.1", num_seeds=2, iterations=50)
    assert study.title == "mine" and (study.test, study.held_out) == ("folder_mine_val", "")
    found = trainings(study)
    assert [(method, cell.seed) for method, cell in found] == [
        ("plain", 0), ("class weights", 0), ("plain", 1), ("class weights", 1),
    ]  # fmt: skip
    plain, weights = found[0][1], found[1][1]
    assert plain.settings["DATASETS.FOLDER"] == str(folder)
    assert plain.settings["SOLVER.BASE_LR"] == "0.1" and plain.iterations == 50
    assert weights.settings == plain.settings | WEIGHTS
    names = [folder_name(f"{method}, seed {cell.seed}", cell) for method, cell in found]
    assert names[1] == f"class_weights_seed_0_{weights.key[:6]}" and len(set(names)) == 4
    assert folder_name("Lovász, seed 0", plain) == f"lovasz_seed_0_{plain.key[:6]}"
    words = [str(word) for pair in weights.settings.items() for word in pair]
    assert load_config(CONFIG, words).SOLVER.CHECKPOINT_PERIOD == 5


def test_methods_with_the_same_settings_share_their_trainings(folder):
    study = plan(folder, methods=METHODS | {"again": WEIGHTS}, num_seeds=1)
    assert [method for method, _ in trainings(study)] == ["plain", "class weights"]


def test_the_test_split_is_evaluated_but_not_compared(folder):
    for kind in ("images", "labels"):
        (folder / kind / "test").symlink_to(folder / kind / "val")
    study = plan(folder)
    assert (study.test, study.held_out) == ("folder_mine_val", "folder_mine_test")
    cell = study.method_cells({})[0]
    assert cell.held_out == "folder_mine_test" and cell.key != replace(cell, held_out="").key


def test_the_data_sets_of_a_config_are_compared_without_a_folder(folder, tmp_path):
    config = tmp_path / "config.yaml"
    base = os.path.abspath(CONFIG)
    config.write_text(yaml.safe_dump({"_BASE_": base, "DATASETS": {"FOLDER": str(folder)}}))
    study = plan("", config=str(config))
    assert study.title == "folder_mine_val" and "DATASETS.FOLDER" not in study.settings
    assert study.held_out == ""
    for kind in ("images", "labels"):
        (folder / kind / "test").symlink_to(folder / kind / "val")
    assert plan("", config=str(config)).held_out == "folder_mine_test"
    keys = {"FOLDER": str(folder), "TEST": ["folder_mine_test"]}
    config.write_text(yaml.safe_dump({"_BASE_": base, "DATASETS": keys}))
    study = plan("", config=str(config))
    assert (study.test, study.held_out) == ("folder_mine_test", "")


def test_default_length():
    assert default_iterations(600, 8, 20000) == 2250  # 30 epochs
    assert default_iterations(100, 8, 20000) == 1000
    assert default_iterations(10000, 8, 20000) == 20000
    assert default_iterations(100, 8, 300) == 300


def test_a_comparison_has_the_default_length(folder):
    assert plan(folder).settings["SOLVER.MAX_ITER"] == 1000


def test_a_short_training_has_a_short_warm_up(folder):
    config = CONFIG.replace("_R_18", "_R_50")
    assert load_config(config, []).SOLVER.WARMUP_ITERS == 1000
    random = ["MODEL.WEIGHTS", ""]
    found = plan(folder, *random, config=config, iterations=300)
    assert found.settings["SOLVER.WARMUP_ITERS"] == 30
    own = plan(folder, *random, "SOLVER.WARMUP_ITERS", "5", config=config, iterations=300)
    assert own.settings["SOLVER.WARMUP_ITERS"] == "5"
    small = CONFIG.replace("_R_18", "_efficientnet_lite0")
    assert "SOLVER.WARMUP_ITERS" not in plan(folder, config=small).settings


def message(folder, *overrides, **options):
    with pytest.raises(InputError) as error:
        plan(folder, *overrides, **options)
    return str(error.value)


def test_what_cannot_be_compared_is_refused_before_it_trains(folder, tmp_path):
    assert "SEED cannot be set for a comparison: use --seeds" in message(folder, "SEED", "3")
    longer = METHODS | {"longer": {"SOLVER.MAX_ITER": 5000}}
    assert "SOLVER.MAX_ITER cannot be set for the method longer" in message(folder, methods=longer)
    assert "unknown key MODEL.LOS.NAME" in message(folder, "MODEL.LOS.NAME", "x")
    assert "overrides are pairs" in message(folder, "SOLVER.BASE_LR")
    found = message(folder, methods=METHODS | {"odd": {"MODEL.LOSS.NAME": "nothing"}})
    assert "method odd: " in found and "nothing" in found
    assert "the plain model" in message(folder, config=CONFIG.replace("baseline", "sar"))
    assert "Folder not found" in message(tmp_path / "nowhere")
    assert "no data set: give --folder" in message("")
    assert "missing.pth" in message(folder, "MODEL.WEIGHTS", "missing.pth")
    for keys, part in (
        ({"MODEL.WEIGHTS": "missing.pth"}, "missing.pth"),
        ({"SOLVER.OPTIMIZER": "ADAM"}, 'unknown SOLVER.OPTIMIZER "ADAM"'),
        ({"SOLVER.LR_SCHEDULER_NAME": "Poly"}, 'unknown SOLVER.LR_SCHEDULER_NAME "Poly"'),
        ({"DATASETS.CLASS_FREQUENCY": "missing.json"}, "missing.json"),
        (
            {"MODEL.LOSS.NAME": "focal", "MODEL.LOSS.OWN_CLASS_WEIGHTS": [1, 2]},
            "has 2 numbers, expected 3",
        ),
    ):
        found = message(folder, methods=METHODS | {"odd": keys})
        assert found.startswith("method odd: ") and part in found
    found = message(folder, "MODEL.LOSS.CLASS_WEIGHTS", "enet")
    assert "CLASS_WEIGHTS is enet at the end" in found and "but median_frequency in the" in found
    plan(folder, "MODEL.LOSS.CLASS_WEIGHTS", "median_frequency", "MODEL.LOSS.NAME", "cross_entropy")
    assert "MODEL.DEVICE cuda:1 cannot be set" in message(folder, "MODEL.DEVICE", "cuda:1")
    plan(folder, "MODEL.DEVICE", "cpu")
    crop = {"INPUT.CROP.SIZE": [64, 64]}  # the same in other words
    plan(folder, "INPUT.CROP.SIZE", "64,64", methods=METHODS | {"crop": crop})
    found = message(folder, methods=METHODS | {"odd": {"MODEL.DEVICE": "cpu"}})
    assert "the method odd sets MODEL.DEVICE" in found
    for kind in ("images", "labels"):
        (folder / kind / "val").rename(folder / kind / "other")
    assert "needs a validation split" in message(folder)


def test_all_files_are_read_before_the_first_training(folder):
    study = plan(folder)
    counts = read_files(study)
    assert isinstance(counts, ClassFrequency) and counts.num_images == 5
    (folder / "labels" / "val" / "3.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="3.png"):
        read_files(study)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"INPUT.CROP.CLASS_UNIFORM": 50}, "INPUT.CROP.CLASS_UNIFORM 50.0 is not a share"),
        (
            {
                "MODEL.CLASSIFIER": "sem_seg_head.nope",
                "MODEL.REGULARIZERS": ["SemanticAnchorRegularizer"],
            },
            'MODEL.CLASSIFIER "sem_seg_head.nope" leads nowhere',
        ),
        ({"SOLVER.BASE_LR": -1}, "Invalid learning rate: -1.0"),
        ({"SOLVER.WARMUP_METHOD": "none"}, "no schedule can be built"),
    ],
)
def test_every_method_is_built_before_the_first_training(folder, keys, message):
    study = plan(folder, methods=METHODS | {"odd": keys})
    frequency = read_files(study)
    check_methods(study.only(["plain", "class weights"]), frequency)
    with pytest.raises(InputError, match=f"^method odd: .*{message}"):
        check_methods(study, frequency)
