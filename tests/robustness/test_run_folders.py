"""OUTPUT_DIR and class frequencies: a damaged file is replaced, ignored, or named."""

import json
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from .case import report, resume, train_net
from .damage import DAMAGES, damage

OUTPUT = r"output/.*"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NUMBERS = st.lists(st.one_of(st.integers(-1, 10**400), st.floats(), JSON), max_size=4)
FREQUENCIES = st.one_of(
    JSON,
    st.fixed_dictionaries({"class_names": st.lists(st.text(max_size=8) | JSON, max_size=4)}),
    st.fixed_dictionaries({"pixels": NUMBERS}),
    st.fixed_dictionaries({"images": NUMBERS}),
)


@given(FREQUENCIES)
@example({"images": [99, 1, 1]})
@example({"pixels": [10**400, 1, 1]})
@example({"pixels": [0, 0, 0]})
@example({"images": [True, True, True]})
@example({"images": ["1", "2", "3"]})
@example({"pixels": [float("nan"), 2, 3]})
def test_class_frequencies(case, change):
    with case() as one:
        for name in ("frequency.json", "output/class_frequency.json"):
            path = one.folder / name
            content = json.loads(path.read_text())
            path.write_text(json.dumps(content | change if isinstance(change, dict) else change))
        words = ["DATASETS.CLASS_FREQUENCY", "frequency.json"]
        one.run(train_net, words, names=["frequency.json"])
        one.run(report, names=["class_frequency.json", "output"])


def test_class_frequencies_nested_too_deeply(case):
    with case() as one:
        (one.folder / "frequency.json").write_text("[" * 200_000)
        words = ["DATASETS.CLASS_FREQUENCY", "frequency.json"]
        assert not one.run(train_net, words, names=["frequency.json"])


@given(
    st.binary(max_size=40)
    | st.sampled_from([b"model_0009999.pth", b"../weights.pth", b"/etc/passwd", b"inference"])
    | st.sampled_from([b"http://127.0.0.1:9/model.pth", b"model_final.pth\n", b"a\nb\n"])
)
def test_last_checkpoint(case, content):
    with case() as one:
        (one.folder / "output/last_checkpoint").write_bytes(content)
        names = ["output", content.decode(errors="replace").strip()]
        one.run(resume, names=names, may=OUTPUT)


@given(st.one_of(st.binary(max_size=60), JSON.map(json.dumps).map(str.encode)))
@example(b'{"iteration": 1, "total_l')
@example(b'{"total_loss": 1.0}\n')
@example(b'{"iteration": "x"}\n')
@example(b"\n\n\n")
def test_metrics(case, content):
    with case() as one:
        path = one.folder / "output/metrics.json"
        path.write_bytes(path.read_bytes() + content)
        one.run(report, names=["metrics.json"])
        one.run(resume, names=["metrics.json"], may=OUTPUT)


FILES = ["config.yaml", "metrics.json", "last_checkpoint", "class_frequency.json", "log.txt"]


@pytest.mark.parametrize("name", FILES)
@given(how=DAMAGES)
def test_a_damaged_file(case, name, how):
    with case() as one:
        path = one.folder / "output" / name
        if name == "log.txt":  # a training inside another process has none
            path.write_text("a line\n")
        damage(path, how)
        one.run(report, names=[name, "output"])
        one.run(resume, names=[name, "output", "OUTPUT_DIR"], may=OUTPUT)


def test_a_file_instead_of_the_folder_of_evaluations(case):
    with case() as one:
        shutil.rmtree(one.folder / "output/inference", ignore_errors=True)
        (one.folder / "output/inference").touch()
        one.run(resume, names=["output/inference", "OUTPUT_DIR"], may=OUTPUT)


def test_checkpoints_with_odd_names(case):
    with case() as one:
        for name in ("model_abc.pth", "model_-1.pth", "model_.pth", ".model.pth"):
            (one.folder / "output" / name).write_bytes(b"rubbish")
        assert one.run(resume, names=["output"], may=r"output/(?!model_abc|model_-1|model_\.).*")


@pytest.mark.parametrize("output", ["tiny.yaml", "loop"])
def test_an_output_folder_that_is_not_a_folder(output, case):
    with case() as one:
        (one.folder / "loop").symlink_to("loop")
        assert not one.run(train_net, ["OUTPUT_DIR", output], names=["OUTPUT_DIR"])
