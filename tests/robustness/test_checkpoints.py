"""Checkpoints: exploits do not run, and unusable weights are refused by the name of their file."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from .case import Exploit, evaluate, load_weights, predict, resume, train_net
from .damage import DAMAGES, damage

NAMES = ["weights.pth", "weights.pkl"]
OUTPUT = r"output/.*"


def shaped(function):
    return lambda weights: {"model": {name: function(value) for name, value in weights.items()}}


CONTENTS = {
    "an exploit": lambda w: Exploit(),
    "an exploit among weights": lambda w: {"model": w | {"x": Exploit()}},
    "an exploit next to weights": lambda w: {"model": w, "args": Exploit()},
    "nothing": lambda w: {},
    "an empty model": lambda w: {"model": {}},
    "a list": lambda w: [1, 2],
    "a tensor": lambda w: torch.zeros(3),
    "a model that is a list": lambda w: {"model": [1]},
    "texts": shaped(lambda value: "x"),
    "numbers": shaped(lambda value: 1.0),
    "names that are numbers": lambda w: {"model": dict(enumerate(w.values()))},
    "other names": lambda w: {"model": {f"x.{k}": v for k, v in w.items()}},
    "other shapes": shaped(lambda v: torch.cat([v, v]) if v.dim() else v),
    "meta tensors": shaped(lambda v: v.to("meta")),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("program", [evaluate, train_net])
def test_refused(name, program, case):
    with case() as one:
        torch.save(CONTENTS[name](load_weights(one.folder / "weights.pth")), _unlinked(one))
        assert not one.run(program, ["MODEL.WEIGHTS", "weights.pth"], names=NAMES)


def _unlinked(one):
    path = one.folder / "weights.pth"
    path.unlink()
    return path


@pytest.mark.parametrize(
    "make",
    [
        shaped(torch.Tensor.to_sparse),
        shaped(lambda v: v * 1j),
        shaped(torch.Tensor.long),
        shaped(lambda v: v / 0 if v.dtype.is_floating_point else v),
    ],
    ids=["sparse", "complex", "integer", "infinite"],
)
def test_unusual_weights(make, case):
    with case() as one:
        torch.save(make(load_weights(one.folder / "weights.pth")), _unlinked(one))
        one.run(evaluate, names=[*NAMES, "not finite"])
        one.run(predict, names=[*NAMES, "not finite"])


def test_an_exploit_in_the_old_format(case):
    with case() as one:
        content = {"model": Exploit()}
        torch.save(content, _unlinked(one), _use_new_zipfile_serialization=False)
        assert not one.run(evaluate, names=NAMES)


PICKLES = {
    "an exploit": lambda w: {"model": Exploit(), "__author__": "x"},
    "an exploit next to weights": lambda w: {"model": w, "__author__": Exploit()},
    "a list": lambda w: [1],
    "texts": lambda w: {"model": dict.fromkeys(w, "x"), "__author__": "x"},
    "objects": lambda w: {"model": {k: v.astype(object) for k, v in w.items()}},
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_refused(name, case):
    with case() as one:
        weights = load_weights(one.folder / "weights.pth")
        content = PICKLES[name]({key: value.numpy() for key, value in weights.items()})
        (one.folder / "weights.pkl").write_bytes(pickle.dumps(content))
        assert not one.run(evaluate, ["MODEL.WEIGHTS", "weights.pkl"], names=NAMES)


def test_a_pickle_that_announces_exabytes(case):
    with case() as one:
        content = b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f" + b"x."
        (one.folder / "weights.pkl").write_bytes(content)
        assert not one.run(evaluate, ["MODEL.WEIGHTS", "weights.pkl"], names=NAMES)


@pytest.mark.parametrize(
    "path",
    ["nowhere.pth", "mine", "http://127.0.0.1:9/weights.pth", "s3://bucket/weights.pth"]
    + ["detectron2://nowhere/model.pkl", "../../../../nowhere/weights.pth"],
)
@pytest.mark.parametrize("program", [evaluate, train_net])
def test_weights_that_are_not_there(path, program, case):
    with case() as one:
        assert not one.run(program, ["MODEL.WEIGHTS", path], names=[path, "MODEL.WEIGHTS"])


@pytest.mark.parametrize("name", NAMES)
@given(how=DAMAGES)
def test_damaged_weights(case, name, how):
    with case() as one:
        damage(one.folder / name, how)
        one.run(evaluate, ["MODEL.WEIGHTS", name], names=[name, "not finite"])


@given(how=DAMAGES)
def test_a_damaged_newest_checkpoint(case, how):
    """A resumed training goes on from the checkpoint before, or says which file is damaged."""
    with case() as one:
        damage(one.folder / "output/model_final.pth", how)
        one.run(resume, names=["model_final.pth", "output", "OUTPUT_DIR"], may=OUTPUT)


@given(st.lists(DAMAGES.filter(lambda how: how[0] != "missing"), min_size=3, max_size=3))
def test_all_checkpoints_damaged(case, hows):
    with case() as one:
        paths = sorted((one.folder / "output").glob("*.pth"))
        for path, how in zip(paths, hows, strict=False):
            damage(path, how)
        one.run(resume, names=[path.name for path in paths] + ["output", "OUTPUT_DIR"], may=OUTPUT)


def test_all_checkpoints_are_exploits(case):
    with case() as one:
        for path in (one.folder / "output").glob("*.pth"):
            torch.save({"model": Exploit(), "iteration": 1}, path)
        assert not one.run(resume, names=["output"], may=OUTPUT)


@pytest.mark.parametrize(
    "words, name",
    [
        (["MODEL.FPN.OUT_CHANNELS", "32"], "model_final.pth"),
        (["SOLVER.OPTIMIZER", "ADAMW"], "SOLVER.OPTIMIZER"),
    ],
)
def test_a_checkpoint_of_another_config(words, name, case):
    with case() as one:
        assert not one.run(resume, words, names=[name], may=OUTPUT)


def test_a_checkpoint_of_another_number_of_classes(case):
    with case() as one:
        with open(one.folder / "mine/classes.txt", "a") as file:
            file.write("unicorn\n")
        assert not one.run(resume, names=["model_final.pth"], may=OUTPUT)
