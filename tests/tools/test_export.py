import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sar.config import load_config
from sar.prediction.predictor import Predictor

from detectron2.modeling import build_model

from ..programs import load_program

ROOT = Path(__file__).parents[2]
CONFIG, BASELINE = (f"configs/CamVid/{name}_sem_fpn_R_18.yaml" for name in ("sar", "baseline"))
SMALL = [
    "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "0", "MODEL.FPN.OUT_CHANNELS", "16",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16", "MODEL.FPN.NORM", "BN", "MODEL.RESNETS.NORM", "BN",
    "MODEL.SEM_SEG_HEAD.NORM", "BN",
]  # fmt: skip
# Runs code that cannot import the packages that fill the braces.
ALONE = "import sys, runpy; sys.modules.update(dict.fromkeys({}));"


@pytest.fixture
def tool():
    return load_program(ROOT / "tools" / "export.py")


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, SMALL))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    return ["MODEL.WEIGHTS", str(tmp_path / "weights.pth")]


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 75, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run_alone(blocked, code):
    command = [sys.executable, "-c", ALONE.format(blocked) + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_onnx(tool, weights, photo, tmp_path, capsys):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    words = ["--output", str(path), *SMALL, *weights]
    assert tool.main(["--config-file", CONFIG, *words]) == 0
    report = capsys.readouterr().out
    assert "max difference" in report and f"Written: {path}" in report

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == (
        "image", "tensor(uint8)", [1, 3, "height", "width"],
    )  # fmt: skip
    assert (logits.name, logits.shape) == ("logits", [1, 11, "height", "width"])
    about = session.get_modelmeta().custom_metadata_map
    assert all(key in tool.__doc__ for key in about)
    assert json.loads(about["class_names"])[:2] == ["sky", "building"]
    assert json.loads(about["image_format"]) == "RGB" and json.loads(about["min_size"]) == 0

    # The example, without PyTorch and detectron2, gives the labels of the predictor.
    labels = tmp_path / "labels.png"
    argv = ["onnx_inference.py", str(path), str(photo), str(labels)]
    blocked = ["torch", "torchvision", "detectron2", "sar"]

    def run_example(*arguments):
        words = ["onnx_inference.py", *map(str, arguments)]
        example = str(ROOT / "examples" / "onnx_inference.py")
        run_alone(blocked, f"sys.argv = {words!r}; runpy.run_path({example!r})")

    predictor = Predictor.load(CONFIG, *SMALL, *weights)
    deep, labels_of_deep = tmp_path / "deep.png", tmp_path / "labels_of_deep.png"
    grey = np.asarray(Image.open(photo).convert("L"), np.uint16)
    Image.fromarray(grey * 257).save(deep)  # 16 bits
    run_example(path, deep, labels_of_deep)
    assert (np.asarray(Image.open(labels_of_deep)) == predictor(deep).labels).mean() > 0.999
    run_example(path, photo, labels)
    expected = predictor(photo)
    assert (np.asarray(Image.open(labels)) == expected.labels).mean() > 0.999
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "onnx_inference.py"), *argv[1:3], str(photo)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and f"OUTPUT {photo} already exists" in done.stderr
    assert Image.open(labels).getpalette()[:6] == expected.colors.ravel()[:6].tolist()

    # The training branch is left out: the graph equals the graph of the plain model.
    graph = onnx.load(path).graph
    assert tool.main(["--config-file", BASELINE, *words]) == 0
    plain = onnx.load(path).graph
    assert [node.op_type for node in graph.node] == [node.op_type for node in plain.node]
    arrays, plain_arrays = (
        [onnx.numpy_helper.to_array(tensor) for tensor in g.initializer] for g in (graph, plain)
    )
    assert len(arrays) == len(plain_arrays) > 40
    assert all(np.array_equal(a, b) for a, b in zip(arrays, plain_arrays, strict=True))


def test_example_without_words_has_its_usage():
    pytest.importorskip("onnxruntime")
    command = [sys.executable, str(ROOT / "examples" / "onnx_inference.py"), "model.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert "usage: python examples/onnx_inference.py MODEL IMAGE OUTPUT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_pt2(tool, weights, photo, tmp_path):
    path = tmp_path / "model.pt2"
    words = ["--config-file", CONFIG, "--quiet", "--output", str(path), *SMALL, *weights]
    assert tool.main(words) == 0
    run_alone(
        ["detectron2", "sar"],
        "import torch, numpy as np; from PIL import Image\n"
        f"image = torch.tensor(np.asarray(Image.open({str(photo)!r}))).permute(2, 0, 1)[None]\n"
        f"labels = torch.export.load({str(path)!r}).module()(image)[0].argmax(0)\n"
        f"np.save({str(tmp_path / 'labels.npy')!r}, labels.numpy())",
    )
    expected = Predictor.load(CONFIG, *SMALL, *weights)(photo).labels
    assert (np.load(tmp_path / "labels.npy") == expected).all()
    lines = [line.strip() for line in tool.__doc__.splitlines() if "about" in line]
    names = {"torch": torch}
    exec("\n".join(lines).replace("model.pt2", str(path)), names)
    assert json.loads(names["about"]["class_names"])[:2] == ["sky", "building"]
    assert json.loads(names["about"]["min_size"]) == 0


def test_a_checkpoint_becomes_one_file_with_everything(tool, weights, photo, tmp_path, capsys):
    path = tmp_path / "small.pth"
    words = ["--config-file", CONFIG, "--output", str(path), *SMALL, "TEST.MODE", "slide"]
    assert tool.main([*words, *weights]) == 0
    assert capsys.readouterr().out.startswith(f"Written: {path}, ")
    expected = Predictor.load(CONFIG, *SMALL, *weights, "TEST.MODE", "slide")(photo)
    found = Predictor.load(str(path))(photo)
    assert found.class_names == expected.class_names and len(found.class_names) == 11
    assert (found.labels == expected.labels).all() and (found.colors == expected.colors).all()
    assert tool.main(["--weights", str(path), "--output", str(path), "--overwrite"]) == 1
    assert "is the input" in capsys.readouterr().err


def test_a_file_that_is_not_the_model_is_never_left(tool, weights, tmp_path, capsys, monkeypatch):
    class Wrong(torch.nn.Module):
        def forward(self, image):
            return torch.zeros(1, 11, *image.shape[-2:])

    monkeypatch.setattr(tool, "trace", lambda graph: None)
    monkeypatch.setattr(tool, "write_pt2", lambda program, path, about: path.touch())
    monkeypatch.setattr(tool, "load_pt2", lambda path: lambda image: Wrong()(image).numpy())
    path = tmp_path / "model.pt2"
    words = ["--config-file", CONFIG, "--output", str(path), *SMALL, *weights]
    assert tool.main(words) == 1
    assert "error: the exported model gives other logits" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize(
    "more, expected",
    [
        (
            ["MODEL.META_ARCHITECTURE", "Foo", "MODEL.WEIGHTS", "nowhere.pth"],
            'MODEL.META_ARCHITECTURE: nothing is registered as "Foo"',
        ),
        (["TEST.MODE", "slide"], "TEST.MODE slide cannot be exported"),
        (["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED True cannot be exported"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth"),
        ([], "MODEL.WEIGHTS is empty"),
    ],
)
def test_errors_are_one_line(tool, tmp_path, capsys, more, expected):
    words = ["--config-file", CONFIG, "--quiet", "--output", str(tmp_path / "model.onnx"), *SMALL]
    assert tool.main([*words, *more]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ") and expected in message
    assert not list(tmp_path.iterdir())


def test_packages_that_are_missing_are_named(tool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(tool.InputError, match=r"onnxruntime is not installed: .*\[export\]"):
        tool.write_onnx(None, tmp_path / "model.onnx", {})


def test_a_format_that_is_not_known_is_a_wrong_command_line(tool, capsys):
    with pytest.raises(SystemExit, match="2"):
        tool.main(["--config-file", "C", "--output", "model.pb"])
    assert "model.pb has to end in .onnx, .pt2 or .pth" in capsys.readouterr().err


def test_neither_the_weights_nor_a_file_of_the_user_is_replaced(tool, tmp_path, capsys):
    (tmp_path / "weights.onnx").write_text("weights")
    (tmp_path / "notes.onnx").write_text("notes")
    words = ["--config-file", CONFIG, *SMALL, "MODEL.WEIGHTS", str(tmp_path / "weights.onnx")]
    for name, more, expected in (
        ("weights.onnx", ["--overwrite"], "is the input"),
        ("notes.onnx", [], "add --overwrite"),
    ):
        assert tool.main(["--output", str(tmp_path / name), *more, *words]) == 1
        assert expected in capsys.readouterr().err
    assert (tmp_path / "weights.onnx").read_text() == "weights"
    assert (tmp_path / "notes.onnx").read_text() == "notes"
