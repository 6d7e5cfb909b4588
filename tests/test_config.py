import pytest

from sar import add_sar_config
from sar.config import changed_keys, load_config
from sar.errors import InputError


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return str(path)


def test_keys_are_added_to_a_config_of_detectron2():
    from detectron2.config import get_cfg
    from detectron2.modeling import META_ARCH_REGISTRY

    cfg = get_cfg()
    add_sar_config(cfg)
    assert cfg.MODEL.REGULARIZERS == ()
    assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
    add_sar_config(cfg)  # twice is harmless


def test_overrides_go_over_the_file_and_the_file_over_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: {BASE_LR: 0.1, MAX_ITER: 5, IMS_PER_BATCH: 3}")
    path = write(tmp_path, "_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.2, MAX_ITER: 6}")
    solver = load_config(path, ["SOLVER.BASE_LR", "0.3"]).SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER, solver.IMS_PER_BATCH) == (0.3, 6, 3)


def test_a_group_for_what_is_a_value_in_the_base_is_named_in_full(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL: {FPN: {NORM: GN}, RESNETS: {NORM: BN}}")
    path = write(tmp_path, "_BASE_: base.yaml\nMODEL: {FPN: {NORM: {A: 1}}, RESNETS: {NORM: BN}}")
    with pytest.raises(InputError, match="config.yaml: MODEL.FPN.NORM has keys below it") as error:
        load_config(path)
    assert "RESNETS" not in str(error.value)
    # The same, further down.
    (tmp_path / "top.yaml").write_text("_BASE_: config.yaml\nMODEL: {FPN: {OUT_CHANNELS: 16}}")
    with pytest.raises(
        InputError, match=r"config.yaml \(_BASE_ of .*top.yaml\): MODEL.FPN.NORM has"
    ):
        load_config(str(tmp_path / "top.yaml"))


def test_yaml_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    planted = tmp_path / "planted"
    path = write(tmp_path, f'OUTPUT_DIR: !!python/object/apply:os.mkdir ["{planted}"]')
    with pytest.raises(InputError, match="refused.*python/object/apply:os.mkdir"):
        load_config(path)
    (tmp_path / "base.yaml").write_text((tmp_path / "config.yaml").read_text())
    with pytest.raises(InputError, match="refused"):
        load_config(write(tmp_path, "_BASE_: base.yaml"))
    assert not planted.exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("MODEL: {REGULARISERS: []}", 'unknown key MODEL.REGULARISERS. Did you mean "MODEL.REGUL'),
        ("SOLVER: {BASE_LR: fast}", "SOLVER.BASE_LR"),
        ("SOLVER: 3", "SOLVER is a group of keys"),
        ("MODEL:", "MODEL is a group of keys"),
        ("_BASE_: 3", "not a file name"),
        ("_BASE_: config.yaml", "leads back to itself"),
        ("a: [", "is not valid YAML"),
        ("", "empty"),
        ("- 1", "not a mapping"),
        ("_BASE_: missing.yaml", "missing.yaml"),
        ("SOLVER: {MAX_ITER: null}", "SOLVER.MAX_ITER is null"),
        ("SOLVER: {BASE_LR: .nan}", "SOLVER.BASE_LR is nan"),
        ("MODEL: {PIXEL_STD: [1, .nan, 1]}", "MODEL.PIXEL_STD is .*nan"),
        ("INPUT: {MIN_SIZE_TRAIN: [small]}", "INPUT.MIN_SIZE_TRAIN is .*, expected numbers"),
        ("MODEL: {RESNETS: {OUT_FEATURES: [0]}}", "OUT_FEATURES is .*, expected names"),
        ("MODEL: {REGULARIZERS: [0]}", "MODEL.REGULARIZERS is .*, expected names"),
        ("MODEL: {FPN: {IN_FEATURES: [[1], [2]]}}", "MODEL.FPN.IN_FEATURES is .*, expected names"),
        ("DATASETS: {TEST: [0]}", "DATASETS.TEST is .*, expected names"),
    ],
)
def test_bad_files(text, message, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as error:
        load_config(path)
    assert path in str(error.value)


def test_a_file_that_is_not_there():
    with pytest.raises(InputError, match="nowhere.yaml cannot be read"):
        load_config("nowhere.yaml")


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["SOLVER.BASE_LRR", "1"], 'Did you mean "SOLVER.BASE_LR"'),
        (["SOLVER.BASE_LR"], "pairs of KEY VALUE"),
        (["SOLVER.BASE_LR", "x"], "SOLVER.BASE_LR"),
        (["SOLVER.BASE_LR", "0.1", "--resume"], "--resume comes after"),
        (["MODEL", "1"], "MODEL is a group of keys"),
        (["SOLVER.BASE_LR", "None"], "command line: SOLVER.BASE_LR is null"),
        (["x\n" * 50_000, "1"], r"unknown key x\\nx\\nx.{,150}$"),
        (["x" * 50_000], r"there are 1 words: x{77}\.\.\.$"),
        (["SOLVER.MAX_ITER", "x" * 20_000], "SOLVER.MAX_ITER is a text of 20000 characters"),
    ],
)
def test_bad_overrides(overrides, message):
    with pytest.raises(InputError, match=message):
        load_config("", overrides)


def test_a_group_without_keys_for_a_value(tmp_path):
    with pytest.raises(InputError, match="MODEL.FPN.NORM is {}, expected a text"):
        load_config(write(tmp_path, "MODEL: {FPN: {NORM: {}}}"))


def test_words_are_taken_as_they_are_meant():
    overrides = [
        "SOLVER.BASE_LR", "1", "OUTPUT_DIR", "2024", "DATASETS.TRAIN", "camvid_train",
        "MODEL.REGULARIZERS", "[]", "DATASETS.TEST", "('a', 'b')", "DATASETS.FOLDER", "'x y'",
    ]  # fmt: skip
    cfg = load_config("", overrides)
    assert cfg.SOLVER.BASE_LR == 1.0 and cfg.OUTPUT_DIR == "2024"
    assert cfg.DATASETS.TRAIN == ("camvid_train",) and cfg.DATASETS.TEST == ("a", "b")
    assert cfg.MODEL.REGULARIZERS == () and cfg.DATASETS.FOLDER == "x y"


def test_what_is_dumped_is_loaded_again(tmp_path):
    """Also texts that look like something else."""
    cfg = load_config("", ["OUTPUT_DIR", "2024", "DATASETS.FOLDER", "None", "TEST.MODE", "(1, 2)"])
    again = load_config(write(tmp_path, cfg.dump()))
    for found in (cfg, again):
        assert found.OUTPUT_DIR == "2024" and found.DATASETS.FOLDER == "None"
        assert found.TEST.MODE == "(1, 2)" and found.TEST.CROP_SIZE == (512, 512)


def test_keys_whose_lists_yaml_has_read_are_not_changed(tmp_path):
    """YAML makes lists of the tuples inside MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS."""
    cfg = load_config(write(tmp_path, load_config("", ["SOLVER.STEPS", "(1, 2)"]).dump()))
    assert changed_keys(cfg) == ["SOLVER.STEPS"]


def test_home_and_variables_are_expanded_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MY_DATA", "/data")
    words = ["DATASETS.FOLDER", "$MY_DATA/mine", "OUTPUT_DIR", "~/${MY_DATA}x"]
    cfg = load_config("", [*words, "MODEL.WEIGHTS", "$NOT_SET/x.pth"])
    assert cfg.DATASETS.FOLDER == "/data/mine"
    assert cfg.OUTPUT_DIR == f"{tmp_path}//datax"
    assert cfg.MODEL.WEIGHTS == "$NOT_SET/x.pth"


def test_the_folder_of_the_data_sets_has_a_default_in_paths(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.setenv("DETECTRON2_DATASETS_OLD", "/old")
    for written, expected in {
        "$DETECTRON2_DATASETS/mine": "datasets/mine",
        "${DETECTRON2_DATASETS}/mine": "datasets/mine",
        "$DETECTRON2_DATASETS_OLD/mine": "/old/mine",
    }.items():
        assert load_config("", ["DATASETS.FOLDER", written]).DATASETS.FOLDER == expected
