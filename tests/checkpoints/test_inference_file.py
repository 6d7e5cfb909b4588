"""model_inference.pth: written at the end of a run, and all that predictions need."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from sar.checkpoints import checkpointer
from sar.checkpoints.checkpointer import Checkpointer
from sar.checkpoints.classes import Classes
from sar.checkpoints.inference_file import config_in, inference_state
from sar.checkpoints.tensor_file import save_tensors
from sar.config import leaves, load_config, lookup, portable_config, sets_key
from sar.errors import InputError
from sar.prediction.predictor import Predictor

from detectron2.modeling import build_model

from ..runs import CONFIG, Killed, kill, train

NORM = "MODEL.{}.NORM"
CLASSES = Classes(("a", "b"), ((0, 0, 0), (1, 2, 3)))


def write(path, **content):
    torch.save({"model": {"weight": torch.zeros(1)}, **content}, path)
    return str(path)


def test_it_holds_what_inference_uses(tmp_path):
    model = nn.Module()
    model.head = nn.Linear(2, 2).half()
    model.head.register_buffer("count", torch.tensor(3))
    model.regularizers = nn.ModuleDict({"sar": nn.Linear(2, 2)})
    for name in ("loss", "auxiliary_head"):
        model.add_module(name, nn.Linear(2, 2))
    save_tensors(inference_state(model, CLASSES, "SEED: 1"), tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    expected = {"head.weight": torch.float32, "head.bias": torch.float32, "head.count": torch.int64}
    assert {name: tensor.dtype for name, tensor in content["model"].items()} == expected
    assert torch.equal(content["model"]["head.weight"], model.head.weight.float())
    assert Classes.from_file(tmp_path / "model.pth") == CLASSES
    assert config_in(tmp_path / "model.pth") == "SEED: 1"


def test_a_model_without_a_branch_keeps_all_its_parts():
    model = nn.Module()
    model.auxiliary_head = nn.Linear(2, 2)
    content = inference_state(model, CLASSES, "SEED: 1")
    assert content["model"].keys() == {"auxiliary_head.weight", "auxiliary_head.bias"}


def test_a_config_without_this_machine_and_its_data(tmp_path):
    here = [
        "OUTPUT_DIR", "x", "MODEL.WEIGHTS", "y", "DATASETS.FOLDER", "z", "MODEL.DEVICE", "cpu",
        "DATASETS.TEST", "('z_val',)", "DATASETS.CLASS_FREQUENCY", "f.json",
        "MODEL.SPARSE_UNET.BACKEND", "spconv-triton",
        "MODEL.SEMANTIC_ANCHOR.ANCHORS", "/mine/anchors.npy",
    ]  # fmt: skip
    elsewhere = ["TEST.CROP_SIZE", "(7, 8)", "INPUT.COLOR_JITTER", "0.5"]
    text = portable_config(load_config(CONFIG, [*here, *elsewhere]))
    assert not {"OUTPUT_DIR", "DATASETS"} & yaml.safe_load(text).keys()
    path = write(tmp_path / "model.pth", config=text)
    cfg, expected = load_config(path), load_config(CONFIG, [*elsewhere, "MODEL.WEIGHTS", path])
    expected.OUTPUT_DIR = cfg.OUTPUT_DIR  # the default
    for key in leaves(expected):
        assert lookup(cfg, key) == lookup(expected, key), key
    text = portable_config(load_config(CONFIG, ["MODEL.SEMANTIC_ANCHOR.ANCHORS", "orthogonal"]))
    assert "ANCHORS: orthogonal" in text
    assert load_config(path, ["MODEL.WEIGHTS", "other.pth"]).MODEL.WEIGHTS == "other.pth"
    assert sets_key("TEST.CROP_SIZE", path) and not sets_key("DATASETS.TEST", path)


def test_the_older_format_of_torch(tmp_path):
    path = tmp_path / "model.pth"
    content = inference_state(nn.Linear(2, 2), CLASSES, "SEED: 1")
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert Classes.from_file(path) == CLASSES and config_in(path) == "SEED: 1"


@pytest.mark.parametrize(
    "config, message",
    [
        (None, "holds no config. Give model_inference.pth"),
        (3, "holds no config"),
        ("", "the config in .*model.pth is empty or not a mapping"),
        ("_BASE_: /etc/x.yaml", "the config in .*model.pth has a _BASE_"),
        ("A: !!python/object/apply:os.getcwd []", "not plain YAML"),
        ("MODEL.NO_SUCH_KEY: 1", "model.pth: unknown key MODEL.NO_SUCH_KEY"),
        ("MODEL: 1", "model.pth: MODEL is a group of keys"),
        ("SEED: 1\n" * 50_000, "has more than 200000 bytes"),
    ],
)
def test_a_config_that_is_refused(config, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_config(write(tmp_path / "model.pth", config=config))


@pytest.mark.parametrize("name", ["model.pt", "model.onnx", "model.pt2"])
def test_models_of_other_formats_are_no_configs(name):
    with pytest.raises(InputError, match=f"{name} holds no config: expected .* model_inference.pt"):
        load_config(name)


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_a_file_that_would_run_code(tmp_path, capsys):
    path = write(tmp_path / "model.pth", config=Harmful())
    with pytest.raises(InputError, match="model.pth cannot be loaded .*: refused"):
        load_config(path)
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(InputError, match="missing.pth cannot be loaded .*: file not found"):
        load_config(str(tmp_path / "missing.pth"))


def test_predictions_equal_those_of_the_checkpoint(folder, tmp_path):
    torch.manual_seed(0)
    config = "configs/Folder/sar_ceco_sem_fpn_R_18.yaml"
    more = ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2", "INPUT.FORMAT", "BGR"]
    more += [
        word for part in ("FPN", "RESNETS", "SEM_SEG_HEAD") for word in (NORM.format(part), "BN")
    ]
    cfg = load_config(config, more)
    saver = Checkpointer(build_model(cfg), str(tmp_path), classes=CLASSES)
    saver.save("model_final")
    saver.save_for_inference(portable_config(cfg), 7)
    whole, slim = (str(tmp_path / f"model_{name}.pth") for name in ("final", "inference"))
    assert torch.load(slim)["iteration"] == 7
    assert not [name for name in torch.load(slim)["model"] if "regularizers" in name]
    image = folder / "images" / "val" / "0.png"
    predictions = [
        Predictor.load(*words)(image, with_confidence=True)
        for words in ([slim], [config, *more, "MODEL.WEIGHTS", whole])
    ]
    found, expected = predictions
    assert found.class_names == ["a", "b"] and (found.colors == expected.colors).all()
    assert (found.labels == expected.labels).all() and len(np.unique(found.labels)) == 2
    assert (found.confidence == expected.confidence).all()  # bit for bit


@pytest.mark.slow
def test_a_run_killed_while_writing_it_is_completed_and_predictions_are_equal(
    folder, overrides, tmp_path, monkeypatch
):
    output = tmp_path / "output"
    whole = checkpointer.save_tensors

    def half(content, path):
        if "config" in content:
            path.write_bytes(b"half")
            kill()
        whole(content, path)

    overrides += ["MODEL.LOSS.NAME", "seesaw", "TEST.PICTURES", "0"]
    config = "configs/Folder/sar_ceco_sem_fpn_R_18.yaml"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpointer, "save_tensors", half)
        train(overrides, config=config)
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert not (output / "model_inference.pth").exists()
    train(overrides, config=config, resume=True)
    assert not list(output.glob(".sar-tmp*"))
    size, whole_size = ((output / f"model_{x}.pth").stat().st_size for x in ("inference", "final"))
    assert size < 0.6 * whole_size  # SGD has one state for each weight

    images = sorted((folder / "images" / "val").iterdir())
    usual = Predictor.load(
        config, *overrides, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(output / "model_final.pth"),
        "MODEL.FPN.NORM", "BN", "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN",
    )  # fmt: skip
    expected = list(usual.predict_all(images, with_confidence=True))
    alone = tmp_path / "alone" / "it.pth"
    alone.parent.mkdir()
    shutil.move(output / "model_inference.pth", alone)
    shutil.rmtree(output)
    folder.rename(tmp_path / "gone")
    images = sorted((tmp_path / "gone" / "images" / "val").iterdir())
    monkeypatch.chdir(alone.parent)
    predictor = Predictor.load(Path("it.pth"))
    assert predictor.class_names == ["ground", "block", "dot"]
    assert (predictor.colors == usual.colors).all()
    for image, wanted in zip(images, expected, strict=True):
        found = predictor(image, with_confidence=True)
        assert (found.labels == wanted.labels).all()
        assert (found.confidence == wanted.confidence).all()  # bit for bit
