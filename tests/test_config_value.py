import pytest

from sar import config
from sar.config import load_config, lookup
from sar.errors import InputError

from detectron2.config import CfgNode

# Key, as written on the command line and in YAML, meaning.
TAKEN = [
    ("INPUT.CROP.SIZE", "64", [64, 64]),
    ("INPUT.CROP.SIZE", "0.5", [0.5, 0.5]),
    ("INPUT.CROP.SIZE", "64,32", [64, 32]),
    ("INPUT.CROP.SIZE", "[64, 32]", [64, 32]),
    ("TEST.CROP_SIZE", "64", (64, 64)),
    ("TEST.CROP_SIZE", "64, 32", (64, 32)),
    ("TEST.CROP_STRIDE", "32", (32, 32)),
    ("SOLVER.STEPS", "3", (3,)),
    ("SOLVER.STEPS", "3,", (3,)),
    ("SOLVER.STEPS", "[3, 5]", (3, 5)),
    ("SOLVER.STEPS", "[]", ()),
    ("INPUT.MIN_SIZE_TRAIN", "64", (64,)),
    ("TEST.AUG.MIN_SIZES", "0", (0,)),
    ("TEST.AUG.ANGLES", "0", (0,)),
    ("MODEL.PIXEL_STD", "[1e0, 1.5e1, 2]", [1.0, 15.0, 2]),
    ("SOLVER.AMP.ENABLED", "true", True),
    ("SOLVER.AMP.ENABLED", "True", True),
    ("SOLVER.AMP.ENABLED", "FALSE", False),
    ("SOLVER.BASE_LR", "1e-4", 1e-4),
    ("SOLVER.BASE_LR", "1E-4", 1e-4),
    ("SOLVER.BASE_LR", ".5", 0.5),
    ("SOLVER.BASE_LR", "3", 3.0),
    ("SOLVER.MAX_ITER", "4e4", 40_000),
    ("SOLVER.MAX_ITER", "40_000", 40_000),
    ("SOLVER.WEIGHT_DECAY_BIAS", "0.5", 0.5),
    ("DATASETS.TRAIN", "a", ("a",)),
    ("DATASETS.TRAIN", "[a, b]", ("a", "b")),
    ("OUTPUT_DIR", "runs/a,b", "runs/a,b"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64]]", [[32], [64]]),
    ("MODEL.LOSS.OWN_CLASS_WEIGHTS", "[0.5, 1e-1, 4]", (0.5, 0.1, 4)),
    ("MODEL.LOSS.OWN_CLASS_WEIGHTS", "[]", ()),
    ("MODEL.LOSS.NAME", "cross_entropy + 0.5 * dice", "cross_entropy + 0.5 * dice"),
]
# These are texts in YAML.
TAKEN_ON_THE_COMMAND_LINE = [
    ("DATASETS.TRAIN", "a,b", ("a", "b")),
    ("DATASETS.TRAIN", "(a, b)", ("a", "b")),
    ("DATASETS.TRAIN", "('a',)", ("a",)),
    ("DATASETS.TEST", "", ()),
    ("DATASETS.TEST", "()", ()),
    ("OUTPUT_DIR", "'a b'", "a b"),
    ("OUTPUT_DIR", "true", "true"),
    ("SOLVER.WEIGHT_DECAY_BIAS", "None", None),
]


def in_yaml(key, value):
    *groups, name = key.split(".")
    return "".join(f"{'  ' * i}{part}:\n" for i, part in enumerate(groups)) + (
        f"{'  ' * len(groups)}{name}: {value}\n"
    )


def load_yaml(tmp_path, key, value):
    path = tmp_path / "config.yaml"
    path.write_text(in_yaml(key, value))
    return load_config(str(path))


def assert_same(found, expected):
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("key, word, meaning", [*TAKEN, *TAKEN_ON_THE_COMMAND_LINE])
def test_what_the_command_line_takes(key, word, meaning):
    assert_same(lookup(load_config("", [key, word]), key), meaning)


@pytest.mark.parametrize("key, word, meaning", TAKEN)
def test_what_yaml_takes(key, word, meaning, tmp_path):
    assert_same(lookup(load_yaml(tmp_path, key, word), key), meaning)


@pytest.mark.parametrize(
    "key, word, message",
    [
        ("MODEL.PIXEL_MEAN", "127.5", r"is 127.5, expected 3 numbers, such as \[103.53, "),
        ("MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", "6", r"expected 3 numbers, such as \[6, 12, 18\]"),
        ("SOLVER.STEPS", "often", r"is 'often', expected numbers, such as \[30000\]"),
        ("SOLVER.STEPS", "[3, x]", "expected numbers"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "large", r"expected numbers, such as \[\[32, 64"),
        ("MODEL.LOSS.OWN_CLASS_WEIGHTS", "enet", r"expected numbers, such as \[0.5, 2.0\]"),
        ("MODEL.LOSS.OWN_CLASS_WEIGHTS", "[1, road]", r"expected numbers, such as \[0.5, 2.0\]"),
        ("SOLVER.AMP.ENABLED", "1", "is '?1'?, expected True or False"),
        ("SOLVER.AMP.ENABLED", "maybe", "is 'maybe', expected True or False"),
        ("SOLVER.MAX_ITER", "1.5", "is '?1.5'?, expected a whole number"),
        ("SOLVER.MAX_ITER", "many", "expected a whole number"),
        ("SOLVER.MAX_ITER", "true", "expected a whole number"),
        ("SOLVER.MAX_ITER", "1" * 50, "whole number of more than 64 bits"),
        ("SOLVER.STEPS", f"[{'1' * 50}]", "whole number of more than 64 bits"),
        ("SOLVER.BASE_LR", "fast", "is 'fast', expected a number"),
        ("SOLVER.BASE_LR", "[0.1]", "expected a number"),
        ("SOLVER.WEIGHT_DECAY_BIAS", "none", "expected a number or None"),
        ("DATASETS.TRAIN", "3", "is 3, expected names, such as"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "[2, 3]", r"expected names, such as \['p2', 'p3'"),
    ],
)
def test_what_is_refused_names_key_expected_and_found(key, word, message, tmp_path):
    for load, place in (
        (lambda: load_config("", [key, word]), "command line: "),
        (lambda: load_yaml(tmp_path, key, word), "config.yaml: "),
    ):
        with pytest.raises(
            InputError, match=f"{place}{key} .*{message}|{place}{key} {message}"
        ) as e:
            load()
        assert "<class" not in str(e.value) and len(str(e.value)) < 400


@pytest.fixture
def own_key(monkeypatch):
    def add_config(cfg):
        cfg.MY = CfgNode({"PATH": None})

    monkeypatch.setattr(config, "config_functions", [add_config])
    return "MY.PATH"


@pytest.mark.parametrize(
    "word, meaning",
    [
        ("weights/a.pth", "weights/a.pth"), ("'a b'", "a b"), ("3", 3), ("1.5", 1.5),
        ("True", True), ("[1, 2]", [1, 2]),
    ],
)  # fmt: skip
def test_a_key_of_ones_own_without_a_default_takes_any_value(word, meaning, own_key, tmp_path):
    assert_same(lookup(load_config("", [own_key, word]), own_key), meaning)
    assert_same(lookup(load_yaml(tmp_path, own_key, word), own_key), meaning)
    assert load_config("", [own_key, "None"]).MY.PATH is None
    assert load_yaml(tmp_path, own_key, "null").MY.PATH is None
    for other in ("{}", "!!set {a}"):
        with pytest.raises(InputError, match="MY.PATH is .*, expected a text, a number, a list or"):
            load_yaml(tmp_path, own_key, other)


@pytest.mark.parametrize("text", ["2024", "true", "1.5", "[a]"])
def test_a_text_without_quotes_in_yaml(text, tmp_path):
    with pytest.raises(InputError, match="OUTPUT_DIR is .*, expected a text: write it in quotes"):
        load_yaml(tmp_path, "OUTPUT_DIR", text)


@pytest.mark.parametrize(
    "word", ["9" * 5000, "(" * 5000, "- " * 4000 + "1", "[" * 9000 + "]" * 9000, "1+" * 4000 + "1"]
)
def test_words_that_would_take_long_or_crash_the_parser(word):
    for key in ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.BASE_LR", "SOLVER.AMP.ENABLED"):
        with pytest.raises(InputError, match=key) as error:
            load_config("", [key, word])
        assert len(str(error.value)) < 300
