import os
import pickle

import pytest
import torch
from torch import nn

from sar.engine import Checkpointer
from sar.errors import InputError


def model(num_classes=3):
    return nn.ModuleDict({"backbone": nn.Linear(4, 4), "predictor": nn.Linear(4, num_classes)})


@pytest.fixture
def saved(tmp_path):
    original = model()
    Checkpointer(original, str(tmp_path)).save("model_final", iteration=7)
    return original, str(tmp_path / "model_final.pth")


def test_round_trip(saved, tmp_path):
    original, path = saved
    other = model()
    assert Checkpointer(other, str(tmp_path), require_all=True).load(path)["iteration"] == 7
    for one, two in zip(original.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


def test_a_write_that_fails_leaves_the_old_file(saved, tmp_path, monkeypatch):
    _, path = saved

    def fail(state, file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(InputError, match="model_final.pth cannot be written .No space.* MiB"):
        Checkpointer(model(), str(tmp_path)).save("model_final")
    monkeypatch.undo()
    Checkpointer(model(), require_all=True).load(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


def test_another_number_of_classes_is_refused_with_what_fits(saved):
    _, path = saved
    with pytest.raises(InputError) as error:
        Checkpointer(model(5)).load(path)
    message = str(error.value)
    assert path in message and "2 of its 4 arrays fit" in message
    assert "predictor.weight is 3x4 in the checkpoint, 5x4 in the model" in message
    assert "NUM_CLASSES" in message and "WEIGHTS_SKIP_MISMATCHED" in message


def test_another_number_of_classes_can_be_skipped_in_training_only(saved):
    original, path = saved
    other = model(5)
    before = other["predictor"].weight.clone()
    Checkpointer(other, skip_mismatched=True).load(path)
    assert torch.equal(other["backbone"].weight, original["backbone"].weight)
    assert torch.equal(other["predictor"].weight, before)
    with pytest.raises(InputError, match="of another shape"):
        Checkpointer(model(5), skip_mismatched=True, require_all=True).load(path)


def test_evaluation_refuses_weights_that_are_missing(tmp_path):
    backbone = nn.ModuleDict({"backbone": nn.Linear(4, 4)})
    Checkpointer(backbone, str(tmp_path)).save("backbone")
    path = str(tmp_path / "backbone.pth")
    Checkpointer(model()).load(path)
    with pytest.raises(InputError, match="lacks 2 arrays.*predictor.weight"):
        Checkpointer(model(), require_all=True).load(path)
    with pytest.raises(InputError, match="MODEL.WEIGHTS"):
        Checkpointer(model(), require_all=True).load("")


def test_what_only_training_uses_may_be_missing_in_evaluation(saved):
    _, path = saved
    regularized = model()
    regularized["regularizers"], regularized["loss"] = nn.Linear(2, 2), nn.BatchNorm1d(2)
    Checkpointer(regularized, require_all=True).load(path)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_broken_files(saved, content, suffix, tmp_path):
    _, path = saved
    broken = tmp_path / f"broken.{suffix}"
    broken.write_bytes(open(path, "rb").read()[:-200] if content is None else content)
    with pytest.raises(InputError, match=f"broken.{suffix} cannot be loaded"):
        Checkpointer(model()).load(str(broken))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_arrays_of_the_model_zoo(protocol, tmp_path):
    weights = {key: value.numpy() for key, value in model().state_dict().items()}
    path = tmp_path / "zoo.pkl"
    content = {"model": weights, "__author__": "zoo", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    other = model()
    Checkpointer(other, require_all=True).load(str(path))
    for key, value in other.state_dict().items():
        assert torch.equal(value, torch.from_numpy(weights[key])), key


class Exploit:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_what_is_planted_in_a_checkpoint_does_not_run(suffix, tmp_path):
    planted, path = tmp_path / "planted", tmp_path / f"exploit.{suffix}"
    content = {"model": {"backbone.weight": Exploit(planted)}, "__author__": "zoo"}
    if suffix == "pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=f"exploit.{suffix}.*mkdir"):
        Checkpointer(model()).load(str(path))
    assert not planted.exists()


def test_a_file_that_is_not_there():
    with pytest.raises(InputError, match="nowhere.pth cannot be loaded"):
        Checkpointer(model()).load("nowhere.pth")
