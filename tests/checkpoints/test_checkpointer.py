import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from sar.checkpoints.checkpointer import Checkpointer
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


@pytest.mark.parametrize("limit", [0, 2000])
def test_a_full_disk_leaves_the_old_file(saved, tmp_path, limit):
    original, path = saved
    before = open(path, "rb").read()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(InputError, match="model_final.pth cannot be written .*File too large"):
            Checkpointer(model(), str(tmp_path)).save("model_final")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert open(path, "rb").read() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


def test_an_error_that_is_not_of_writing_is_not_said_to_be(saved, tmp_path, monkeypatch):
    def fail(state, file):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        Checkpointer(model(), str(tmp_path)).save("model_final")
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
        Checkpointer(model(), require_all=True).resume_or_load("")


def test_what_only_training_uses_may_be_missing_in_evaluation(saved):
    _, path = saved
    regularized = model()
    regularized["regularizers"] = nn.ModuleDict({"sar": nn.Linear(2, 2)})
    regularized["loss"] = nn.BatchNorm1d(2)
    Checkpointer(regularized, require_all=True).load(path)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_broken_files(saved, content, suffix, tmp_path):
    _, path = saved
    broken = tmp_path / f"broken.{suffix}"
    broken.write_bytes(open(path, "rb").read()[:-200] if content is None else content)
    with pytest.raises(InputError, match=f"broken.{suffix} cannot be loaded"):
        Checkpointer(model()).load(str(broken))


@pytest.mark.slow
def test_a_flipped_bit_is_found_or_harmless(tmp_path):
    original, damaged = nn.Linear(1, 1), tmp_path / "damaged.pth"
    Checkpointer(original, str(tmp_path)).save("whole")
    content = (tmp_path / "whole.pth").read_bytes()
    num_found = 0
    for position in range(len(content)):
        flipped = content[position] ^ (1 << position % 8)
        damaged.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
        other = nn.Linear(1, 1)
        try:
            Checkpointer(other).load(str(damaged))
        except InputError:
            num_found += 1
        else:
            assert torch.equal(other.weight, original.weight), position
            assert torch.equal(other.bias, original.bias), position
    assert num_found > len(content) / 3  # the rest is padding, dates and the like


def test_a_tensor_that_has_become_a_folder_is_found(saved, tmp_path):
    content = bytearray((tmp_path / "model_final.pth").read_bytes())
    directory_entry = content.rfind(b"data/0") - len("archive/") - 46
    assert content[directory_entry:][:4] == b"PK\x01\x02"
    content[directory_entry + 38] |= 0x10
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(InputError, match="data/0 is damaged"):
        Checkpointer(model()).load(str(tmp_path / "damaged.pth"))


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


def _write_pth(content, path):
    torch.save(content, path)


def _write_old_pth(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _write_pickle(protocol):
    return lambda content, path: path.write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.mark.parametrize("place", ["weight", "name", "model", "trainer"])
@pytest.mark.parametrize(
    "suffix, write",
    [
        ("pth", _write_pth),
        ("pth", _write_old_pth),
        *(("pkl", _write_pickle(protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
    ],
)
def test_what_is_planted_in_a_checkpoint_does_not_run(suffix, write, place, tmp_path):
    planted, path = tmp_path / "planted", tmp_path / f"exploit.{suffix}"
    exploit = Exploit(planted)
    content = {
        "weight": {"model": {"backbone.weight": exploit}},
        "name": {"model": {exploit: 0}},
        "model": {"model": exploit},
        "trainer": {"model": {}, "trainer": [exploit]},
    }[place]
    write({**content, "__author__": "zoo"}, path)
    with pytest.raises(InputError, match=f"exploit.{suffix}.*refused.* run .*mkdir"):
        Checkpointer(model()).load(str(path))
    assert not planted.exists()


def test_a_file_that_is_not_there():
    with pytest.raises(InputError, match="nowhere.pth cannot be loaded"):
        Checkpointer(model()).load("nowhere.pth")


def test_a_file_that_cannot_be_downloaded_is_found_before_the_model_is_built(monkeypatch):
    def no_network(url):
        raise OSError(f"no route to {url}")

    checkpointer = Checkpointer(nn.Module())
    monkeypatch.setattr(checkpointer.path_manager, "get_local_path", no_network)
    message = (
        "MODEL.WEIGHTS detectron2://X/R-50.pkl cannot be downloaded: no route to .* Download "
        "https://dl.fbaipublicfiles.com/detectron2/X/R-50.pkl on a machine with network"
    )
    with pytest.raises(InputError, match=message):
        checkpointer.find("detectron2://X/R-50.pkl", resume=False)


def test_arrays_that_are_not_loaded_are_one_short_line_of_each_kind(tmp_path, monkeypatch):
    other = model(5)
    other.update({f"extra_{i}": nn.Linear(2, 2) for i in range(50)})
    Checkpointer(other, str(tmp_path)).save("model_final")
    plain = nn.ModuleDict({**model(), "new": nn.Linear(3, 3)})
    checkpointer = Checkpointer(plain, skip_mismatched=True)
    messages = []
    monkeypatch.setattr(checkpointer.logger, "warning", messages.append)
    checkpointer.load(str(tmp_path / "model_final.pth"))
    assert messages == [
        "Not loaded: 2 arrays in the model, but not in the checkpoint: new.weight, new.bias",
        "Not loaded: 100 arrays in the checkpoint, but not in the model: extra_0.weight, "
        "extra_0.bias, extra_1.weight, extra_1.bias, extra_2.weight and 95 more",
        "Not loaded: 2 arrays of another shape in the model: predictor.weight, predictor.bias",
    ]


def test_after_a_file_that_cannot_be_loaded_another_can(saved, tmp_path):
    _, path = saved
    checkpointer = Checkpointer(model())
    with pytest.raises(InputError):
        checkpointer.load(str(tmp_path / "nowhere.pth"))
    assert checkpointer.load(path)["iteration"] == 7


def test_what_is_resumed_is_read_and_no_other(tmp_path, monkeypatch):
    """Each is as large as the model, and is held against its checksums."""
    read, load = [], torch.load

    def recording_load(path, **kwargs):
        read.append(Path(path).name)
        return load(path, **kwargs)

    monkeypatch.setattr(torch, "load", recording_load)
    checkpointer = Checkpointer(model(), f"{tmp_path}/")
    for iteration in (3, 7, 11):
        checkpointer.save_iteration(iteration)
    assert checkpointer.start_run("", resume=True)
    assert read == ["model_0000011.pth"] * 2  # to choose it, and for its content

    read.clear()
    (tmp_path / "model_0000011.pth").write_bytes(b"broken")
    assert checkpointer.start_run("", resume=True)
    assert read.count("model_0000011.pth") == 1 and read[-1] == "model_0000007.pth"
