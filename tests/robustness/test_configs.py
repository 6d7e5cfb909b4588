"""Config files and overrides: a wrong value is refused by the name of its key."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sar.config import leaves, load_config

from .case import CONFIG, PLANTED, evaluate, train_net

KEYS = sorted(set(leaves(load_config())) - {"OUTPUT_DIR", "VERSION"})
GROUPS = ["OUTPUT_DIR", "DATASETS", "MODEL", "INPUT", "SOLVER", "SEED", "TEST", "tiny.yaml"]
GROUPS += KEYS
YAML_VALUES = st.sampled_from(
    ["null", "-1", "0", "1.5", "nan", ".inf", "-1.0e+30", "''", "'x'", "[]", "[0]", "[-1, -1]"]
    + ["['a', 2]", "{}", "{A: 1}", "True", "2020-01-01", "!!binary aGVsbG8=", "[[1], [2]]"]
    + ["'../..'", "'\\0'", "'" + "x" * 300 + "'", "[.nan, 1, 2]", "'é \U0001f600'"]
)
WORDS = st.one_of(
    st.sampled_from(
        ["None", "-1", "0", "1.5", "nan", "inf", "-1e30", "''", "x", "()", "(0,)", "(-1, -1)"]
        + ["('a', 2)", "{}", "{'A': 1}", "True", "[[1], [2]]", "../..", "x" * 300, "(", "'"]
        + [f"__import__('os').system('touch {PLANTED}')"]
    ),
    st.integers(-100, 100).map(str),
    st.floats(-10, 10).map(str),
    st.text(max_size=10).filter(lambda text: not text.startswith("-")),
)
# Refusals that no single key causes: another model's checkpoint, and a training that diverges.
OTHER_CAUSES = ["weights.pth", "SOLVER.BASE_LR"]
# Valid values that make a run long or fill the disk.
LONG = ("SOLVER.MAX_ITER", "DATALOADER.NUM_WORKERS", "TEST.PICTURES")


def argument(key):
    """Return the name of a regularizer's argument, which its message gives next to the group."""
    return key.rpartition(".")[2].lower()


@given(st.sampled_from(KEYS), YAML_VALUES, st.sampled_from([train_net, evaluate]))
def test_a_value_in_a_file(case, key, value, program):
    with case() as one:
        (one.folder / "base.yaml").write_text(CONFIG)
        lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(key.split("."))]
        text = "_BASE_: base.yaml\n" + "\n".join(lines) + f" {value}\n"
        (one.folder / "tiny.yaml").write_text(text, encoding="utf-8")
        one.run(program, names=[key, argument(key), *OTHER_CAUSES])


@given(st.sampled_from(KEYS), WORDS, st.sampled_from([train_net, evaluate]))
def test_a_value_on_the_command_line(case, key, word, program):
    assume(key not in LONG)
    with case() as one:
        one.run(program, [key, word], names=[key, argument(key), *OTHER_CAUSES])


@given(st.integers(0, len(CONFIG) - 1), st.sampled_from(" \n\t:-[]{}&*!|>'\"%@#,?ax0\0é"))
def test_a_character_changed(case, place, character):
    with case() as one:
        text = CONFIG[:place] + character + CONFIG[place + 1 :]
        (one.folder / "tiny.yaml").write_text(text, encoding="utf-8")
        one.run(evaluate, names=GROUPS)


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_any_file(case, content):
    with case() as one:
        (one.folder / "tiny.yaml").write_bytes(content)
        one.run(evaluate, names=GROUPS)


ALIASES = "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstuvwxyz"))
FILES = {
    "apply": f'SEED: !!python/object/apply:os.system ["touch {PLANTED}"]\n',
    "new": f'SEED: !!python/object/new:os.system ["touch {PLANTED}"]\n',
    "eval": f"SEED: !!python/object/apply:eval [\"open('{PLANTED}', 'w')\"]\n",
    "name": "SEED: !!python/name:os.system\n",
    "tuple": "INPUT: {MIN_SIZE_TRAIN: !!python/tuple [32, 64]}\n",
    "merge key": f'<<: !!python/object/apply:os.system ["touch {PLANTED}"]\n',
    "base": f'_BASE_: !!python/object/apply:os.system ["touch {PLANTED}"]\n',
    "a list": "- 1\n- 2\n",
    "a number": "42\n",
    "tabs": "MODEL:\n\tDEVICE: cpu\n",
    "two documents": "SEED: 1\n---\nSEED: 2\n",
    "zero bytes": "SEED: 1\0\n",
    "nested too deeply": "SEED: " + "[" * 3000 + "]" * 3000 + "\n",
    "aliases that explode": "a: &a [x, x]\n" + ALIASES,
    "an alias to itself": "SEED: &a [*a]\n",
    "its own base": "_BASE_: tiny.yaml\n",
    "a missing base": "_BASE_: nowhere.yaml\n",
    "a base that is a folder": "_BASE_: mine\n",
    "a base that is a number": "_BASE_: 3\n",
    "a base on the net": "_BASE_: http://127.0.0.1:9/base.yaml\n",
    "an unknown scheme": "_BASE_: s3://bucket/base.yaml\n",
    "an unknown key": "MODEL: {DEVISE: cpu}\n",
    "an unknown group": "MODLE: {DEVICE: cpu}\n",
    "a value for a group": "MODEL: 3\n",
    "a group for a value": "SEED: {A: 1}\n",
    "keys that are numbers": "1: 2\nMODEL: {3: 4}\n",
    "a key that is null": "null: 1\n",
    "a renamed key": "MODEL: {WEIGHT: x}\n",
    "another encoding": "# Größe\nSEED: 1\n".encode("latin-1"),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_is_refused(content, case):
    with case() as one:
        content = content if isinstance(content, bytes) else content.encode()
        (one.folder / "tiny.yaml").write_bytes(content)
        assert not one.run(train_net, names=["tiny.yaml"])


def test_windows_line_ends_and_a_byte_order_mark(case):
    with case() as one:
        content = CONFIG.replace("\n", "\r\n").encode()
        (one.folder / "tiny.yaml").write_bytes(b"\xef\xbb\xbf" + content)
        assert one.run(evaluate, names=["tiny.yaml"])


@pytest.mark.parametrize(
    "words, name",
    [
        (["SEED"], "pairs"),
        (["SEED", "1", "MODEL.DEVICE"], "pairs"),
        (["MODEL.DEVISE", "cpu"], "MODEL.DEVISE"),
        (["SEED=1", "x"], "SEED=1"),
        (["MODEL", "x"], "MODEL"),
        (["", "x"], "command line"),
        (["...", "x"], "..."),
        (["__class__.__name__", "x"], "__class__"),
        (["SEED", "1", "--num-gpus", "1"], "--num-gpus"),
        (["seed", "1"], "seed"),
        (["SEED\u0301", "1"], "SEED"),
    ],
)
def test_overrides_are_refused(words, name, case):
    with case() as one:
        assert not one.run(train_net, words, names=[name])
