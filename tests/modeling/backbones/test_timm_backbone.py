"""timm's models as backbones, all at random initialization: nothing is downloaded."""

import functools
import os
import subprocess
import sys
from argparse import Namespace

import pytest
import torch
from torch import nn

from sar.errors import InputError
from sar.modeling.backbones import timm_backbone
from sar.modeling.backbones.timm_backbone import TimmBackbone, check_timm_model
from sar.modeling.build import build_model as build_checked_model

from detectron2.modeling import FPN, build_backbone, build_model
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage

timm = pytest.importorskip("timm")
safetensors_torch = pytest.importorskip("safetensors.torch")

SWIN = "swin_tiny_patch4_window7_224"
CHANNELS = {
    "hrnet_w18_small": (16, 32, 64, 128),
    "hrnet_w18": (18, 36, 72, 144),
    "resnet18": (64, 128, 256, 512),
    "convnext_atto": (40, 80, 160, 320),
    SWIN: (96, 192, 384, 768),
    "pvt_v2_b0": (32, 64, 160, 256),
}
LEVELS = ("res2", "res3", "res4", "res5")


@pytest.mark.parametrize("name", CHANNELS)
def test_features_are_as_declared_and_train_every_parameter(name):
    backbone = TimmBackbone(name=name)
    shapes = backbone.output_shape()
    assert tuple(shapes) == LEVELS
    assert tuple(shape.channels for shape in shapes.values()) == CHANNELS[name]
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    # Two images of odd sizes, not multiples of 32 or of Swin's windows.
    images = ImageList.from_tensors(
        [torch.randn(3, 61, 45), torch.randn(3, 50, 131)], backbone.size_divisibility
    ).tensor
    features = backbone(images)
    assert tuple(features) == LEVELS
    for level, feature in features.items():
        stride = shapes[level].stride
        assert feature.shape == (2, shapes[level].channels, 64 // stride, 160 // stride)
    sum(feature.square().mean() for feature in features.values()).backward()
    # One without would stop distributed training. The first layer is among them.
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []
    assert next(backbone.parameters()).grad.abs().sum() > 0


def test_channels_of_hrnet_w48():
    shapes = TimmBackbone(name="hrnet_w48").output_shape()
    assert [shape.channels for shape in shapes.values()] == [48, 96, 192, 384]
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]


def test_hrnet_gives_what_the_head_would_take_of_a_classifier_with_bilinear_upsampling():
    backbone = TimmBackbone(name="hrnet_w18_small").eval()
    classifier = timm.create_model("hrnet_w18_small").eval()
    missing = classifier.load_state_dict(backbone.body.state_dict(), strict=False).missing_keys
    assert {key.split(".")[0] for key in missing} == {
        "incre_modules", "downsamp_modules", "final_layer", "classifier",
    }  # fmt: skip
    for module in classifier.modules():
        if isinstance(module, torch.nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
    branches = []
    for module in classifier.incre_modules:
        module.register_forward_pre_hook(lambda _, inputs: branches.append(inputs[0]))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        classifier(images)
        features = backbone(images)
    assert all(map(torch.equal, features.values(), branches))


def test_swin_at_any_size_is_swin_built_for_that_size():
    backbone = TimmBackbone(name=SWIN).eval()
    of_that_size = timm.create_model(SWIN, img_size=(96, 160), always_partition=True).eval()
    of_that_size.load_state_dict(backbone.body.state_dict(), strict=False)
    images = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        expected = of_that_size.forward_intermediates(images, intermediates_only=True)
        features = backbone(images)
    for feature, wanted in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(feature, wanted)


def test_stages_behind_the_last_feature_are_dropped():
    backbone = TimmBackbone(name="resnet18", out_features=("res4", "res2"))
    assert list(backbone(torch.randn(1, 3, 64, 64))) == ["res2", "res4"]
    assert not any(name.startswith("body.layer4") for name in backbone.state_dict())


def test_output_stride_dilates():
    backbone = TimmBackbone(name="resnet18", output_stride=8)
    assert backbone.size_divisibility == 8
    assert [shape.stride for shape in backbone.output_shape().values()] == [4, 8, 8, 8]
    features = backbone(torch.randn(1, 3, 40, 48))
    assert [tuple(f.shape[2:]) for f in features.values()] == [(10, 12)] + 3 * [(5, 6)]


@pytest.mark.parametrize("output_stride", [16, 32])
def test_padding_of_tensorflow_is_fixed_and_equal(output_stride):
    """Its sizes are multiples of the stride, so the padding does not depend on the image."""
    name = "tf_efficientnet_lite0"
    backbone = TimmBackbone(name=name, output_stride=output_stride).eval()
    options = {} if output_stride == 32 else {"output_stride": output_stride}
    published = timm.create_model(name, num_classes=0, **options).eval()
    published.load_state_dict(backbone.body.state_dict(), strict=False)
    assert not any(isinstance(m, timm.layers.Conv2dSame) for m in backbone.modules())
    assert any(isinstance(m, timm.layers.Conv2dSame) for m in published.modules())
    images = torch.randn(2, 3, 7 * output_stride, 3 * output_stride)
    with torch.no_grad():
        expected = published.forward_intermediates(images, intermediates_only=True)[1:]
        features = backbone(images)
    for feature, wanted in zip(features.values(), expected, strict=True):
        assert torch.equal(feature, wanted)


def test_images_of_other_channels():
    backbone = TimmBackbone(name="resnet18", in_channels=5)
    assert backbone(torch.randn(1, 5, 64, 64))["res5"].shape == (1, 512, 2, 2)


def test_output_norm():
    backbone = TimmBackbone(name=SWIN, output_norm=True, out_features=("res2", "res4"))
    for feature in backbone(torch.randn(2, 3, 64, 64)).values():
        torch.testing.assert_close(feature.mean(dim=1), torch.zeros(2, *feature.shape[2:]))
        deviation = feature.std(dim=1, unbiased=False)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-2, rtol=0)


def test_drop_path_is_in_training_only_and_zero_is_none():
    images = torch.randn(2, 3, 64, 64)
    for rate in (0.0, 0.9):
        backbone = TimmBackbone(name=SWIN, drop_path=rate)
        with torch.no_grad():
            first, second = (backbone(images)["res5"] for _ in range(2))
            assert torch.equal(first, second) == (rate == 0)
            backbone.eval()
            assert torch.equal(backbone(images)["res5"], backbone(images)["res5"])


# resnetv2's batch norms have their activations inside.
@pytest.mark.parametrize("name", ["resnet18", "resnetv2_18"])
@pytest.mark.parametrize("norm", ["SyncBN", "FrozenBN", "GN"])
def test_norms(name, norm):
    torch.manual_seed(0)
    plain = TimmBackbone(name=name).eval()
    torch.manual_seed(0)
    backbone = TimmBackbone(name=name, norm=norm).eval()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    kind = {"SyncBN": nn.SyncBatchNorm, "GN": nn.GroupNorm}.get(norm)
    num_norms = sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    if kind:
        assert sum(isinstance(module, kind) for module in backbone.modules()) == num_norms
    else:
        assert not any("bn" in name for name, _ in backbone.named_parameters())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, expected = backbone(images), plain(images)
    for level in LEVELS:
        if norm != "GN":
            torch.testing.assert_close(features[level], expected[level])
        assert (features[level] < 0).any() == (expected[level] < 0).any()  # activations stay


@pytest.mark.parametrize(
    "name, frozen, trained",
    [
        ("resnet18", ("conv1.", "bn1.", "layer1."), ("layer2.", "layer3.", "layer4.")),
        (
            "hrnet_w18_small",
            ("conv1.", "conv2.", "bn1.", "bn2.", "layer1.", "transition1."),
            ("stage2.", "transition2.", "stage3.", "transition3.", "stage4."),
        ),
        (SWIN, ("patch_embed.", "layers.0."), ("layers.1.", "layers.2.", "layers.3.")),
        ("convnext_atto", ("stem.", "stages.0."), ("stages.1.", "stages.2.", "stages.3.")),
    ],
)
def test_freezing(name, frozen, trained):
    backbone = TimmBackbone(name=name, freeze_at=2)
    before = {key: value.clone() for key, value in backbone.body.state_dict().items()}
    assert {key for key in before if key.startswith(frozen + trained)} == before.keys()
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    # Statistics differ from the initial ones of batch norms.
    features = backbone(5 + 3 * torch.randn(2, 3, 64, 64))
    sum(feature.square().mean() for feature in features.values()).backward()
    optimizer.step()
    after = backbone.body.state_dict()
    for key in after:
        if key.startswith(frozen):
            assert torch.equal(after[key], before[key]), key
    for prefix in trained:
        assert any(
            not torch.equal(after[key], before[key]) for key in after if key.startswith(prefix)
        )


@pytest.fixture
def timm_config(small_config):
    """A config of SAR on DeepLabV3+ with a timm backbone."""

    def build(name, *overrides):
        return small_config(
            "configs/CamVid/sar_deeplab_v3_plus_R_50.yaml", "MODEL.BACKBONE.NAME",
            "build_timm_backbone", "MODEL.TIMM.NAME", name, "MODEL.BACKBONE.FREEZE_AT", "0",
            "MODEL.TIMM.OUT_FEATURES", "('res2', 'res5')", *overrides,
        )  # fmt: skip

    return build


@pytest.mark.parametrize("name", ["hrnet_w18_small", "resnet18", SWIN])
def test_a_step_of_the_regularized_segmentor(name, timm_config):
    torch.manual_seed(0)
    model = build_model(timm_config(name))
    assert isinstance(model.backbone, TimmBackbone)
    batch = [
        {
            "image": torch.randint(256, (3, *size), dtype=torch.uint8),
            "sem_seg": torch.randint(5, size),
        }
        for size in ((61, 45), (50, 71))
    ]
    with EventStorage():
        losses = model(batch)
    assert losses.keys() == {"loss_sem_seg", "loss_sar_anchor", "loss_sar_pull"}
    sum(losses.values()).backward()
    first = next(model.backbone.parameters())
    assert first.grad.isfinite().all() and first.grad.abs().sum() > 0
    with torch.no_grad():
        outputs = model.eval()(batch)
    assert [tuple(o["sem_seg"].shape) for o in outputs] == [(5, 61, 45), (5, 50, 71)]


def test_the_config_reaches_the_backbone(timm_config):
    cfg = timm_config(
        SWIN, "MODEL.TIMM.DROP_PATH", "0.3", "MODEL.TIMM.OUTPUT_NORM", "True",
        "MODEL.PIXEL_MEAN", "[0.0, 0.0, 0.0, 0.0]", "MODEL.BACKBONE.FREEZE_AT", "1",
    )  # fmt: skip
    backbone = build_backbone(cfg)
    assert backbone.body.patch_embed.proj.weight.shape[1] == 4
    assert not backbone.body.patch_embed.proj.weight.requires_grad
    assert set(backbone.output_norms) == {"res2", "res5"}
    rates = [m.drop_prob for m in backbone.modules() if isinstance(m, timm.layers.DropPath)]
    assert max(rates) == pytest.approx(0.3)


FPN_OPTIONS = (
    "MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.FPN.OUT_CHANNELS", "16",
    "MODEL.TIMM.OUT_FEATURES", str(LEVELS),
)  # fmt: skip


def test_feature_pyramid(timm_config):
    options = (*FPN_OPTIONS, "MODEL.FPN.IN_FEATURES", str(LEVELS))
    pyramid = build_backbone(timm_config("convnext_atto", *options))
    images = torch.randn(1, 3, 64, 96)
    features = pyramid(images)
    shapes = {name: tuple(feature.shape[1:]) for name, feature in features.items()}
    assert shapes == {
        "p2": (16, 16, 24), "p3": (16, 8, 12), "p4": (16, 4, 6), "p5": (16, 2, 3), "p6": (16, 1, 2),
    }  # fmt: skip
    expected = FPN(pyramid.bottom_up, list(LEVELS), 16, norm="BN")
    expected.load_state_dict(pyramid.state_dict())
    assert torch.equal(expected(images)["p2"], features["p2"])
    with pytest.raises(InputError, match='MODEL.FPN.IN_FEATURES names "res6".* It has res2, res3'):
        build_backbone(timm_config("resnet18", *options, "MODEL.FPN.IN_FEATURES", "['res6']"))


def test_a_head_that_reads_other_features_names_the_key(timm_config):
    cfg = timm_config("resnet18", "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead")
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p2", "p3"]
    message = 'MODEL.SEM_SEG_HEAD.IN_FEATURES names "p2", which .* It has res2, res5'
    with pytest.raises(InputError, match=message):
        build_checked_model(cfg)


@pytest.mark.parametrize("name", ["hrnet_w18_small", "resnet18", SWIN])
def test_weights_from_a_file(name, tmp_path):
    path = tmp_path / "weights.pth"
    published = timm.create_model(name)
    torch.save({"state_dict": published.state_dict()}, path)
    backbone = TimmBackbone(name=name, checkpoint=str(path), norm="FrozenBN")
    expected = published.state_dict()
    for key, value in backbone.body.state_dict().items():
        assert torch.equal(value, expected[key]), key
    # The first convolution is fitted to other images.
    backbone = TimmBackbone(name=name, checkpoint=str(path), in_channels=4, out_features=["res2"])
    assert next(backbone.parameters()).shape[1] == 4


class Exploit:
    def __reduce__(self):
        return os.mkdir, (os.environ["SAR_TEST_EXPLOIT"],)


def test_a_file_of_weights_runs_nothing(tmp_path, monkeypatch):
    """Whatever timm's own reader does."""
    monkeypatch.setenv("SAR_TEST_EXPLOIT", str(tmp_path / "run"))
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": timm.create_model("resnet18").state_dict(), "x": Exploit()}, path)
    unsafe = functools.partial(torch.load, weights_only=False)
    monkeypatch.setattr(timm.models._builder, "load_state_dict", unsafe)
    with pytest.raises(InputError, match=r"weights.pth cannot be .*since it would run \w+\.mkdir"):
        TimmBackbone(name="resnet18", checkpoint=str(path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["plain", "timm_training", "distributed", "safetensors"])
def test_files_of_weights_of_all_kinds(kind, tmp_path):
    state = timm.create_model("resnet18").state_dict()
    path = tmp_path / "weights.pth"
    if kind == "plain":
        torch.save(state, path)
    elif kind == "timm_training":
        other = timm.create_model("resnet18").state_dict()
        content = {"arch": "resnet18", "args": Namespace(lr=0.1), "epoch": 3}
        torch.save({**content, "state_dict": other, "state_dict_ema": state}, path)
    elif kind == "distributed":
        torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        path = path.with_suffix(".safetensors")
        safetensors_torch.save_file(state, path)
    backbone = TimmBackbone(name="resnet18", checkpoint=str(path))
    for key, value in backbone.body.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_weights_that_cannot_be_loaded(tmp_path, monkeypatch):
    def build(**options):
        return TimmBackbone(name="resnet18", **options)

    path = tmp_path / "weights.pth"
    with pytest.raises(InputError, match="file not found: .*weights.pth"):
        build(checkpoint=str(path))
    torch.save({}, path)  # and nothing is downloaded in its place
    with pytest.raises(InputError, match="weights.pth cannot be loaded .*: it has no weights"):
        build(checkpoint=str(path))
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="CHECKPOINT .*weights.pth cannot be loaded into resnet18"):
        build(checkpoint=str(path))
    torch.save(timm.create_model("resnet34").state_dict(), path)  # has all that resnet18 has
    build(checkpoint=str(path))
    torch.save(timm.create_model("resnet50").state_dict(), path)
    with pytest.raises(InputError, match="CHECKPOINT .*weights.pth cannot be loaded into resnet18"):
        build(checkpoint=str(path))
    torch.save(timm.create_model("convnext_atto").state_dict(), path)
    with pytest.raises(InputError, match=r"weights.pth lacks 100 of the 100 arrays of resnet18"):
        build(checkpoint=str(path))

    def no_network(*args, **kwargs):
        raise OSError("no connection")

    monkeypatch.setattr(timm.models, "load_pretrained", no_network)
    with pytest.raises(InputError, match="no connection.*MODEL.TIMM.PRETRAINED False and"):
        build(pretrained=True)


def test_pretrained_weights_are_not_read_where_others_come(timm_config, monkeypatch):
    calls = []
    monkeypatch.setattr(timm.models, "load_pretrained", lambda *a, **k: calls.append(a))
    pretrained = ("resnet18", "MODEL.TIMM.PRETRAINED", "True")
    build_backbone(timm_config(*pretrained, "MODEL.WEIGHTS", "model_final.pth"))
    assert not calls
    build_backbone(timm_config(*pretrained))
    assert len(calls) == 1


def test_warnings_of_what_spoils_weights(timm_config, monkeypatch):
    messages = []
    monkeypatch.setattr(timm_backbone.logger, "warning", messages.append)
    monkeypatch.setattr(timm.models, "load_pretrained", lambda *args, **kwargs: None)
    pretrained = ("resnet18", "MODEL.TIMM.PRETRAINED", "True", "INPUT.FORMAT", "RGB")
    wanted = (
        "MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]", "MODEL.PIXEL_STD", "[58.4, 57.1, 57.4]",
    )  # fmt: skip
    build_backbone(timm_config(*pretrained, *wanted))
    assert not messages
    build_backbone(timm_config(*pretrained, *wanted, "INPUT.FORMAT", "BGR"))
    build_backbone(timm_config(*pretrained, *wanted, "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"))
    assert len(messages) == 2
    assert all("expect INPUT.FORMAT RGB" in message for message in messages)
    build_backbone(timm_config("resnet18", "MODEL.BACKBONE.FREEZE_AT", "2"))
    assert "at random values" in messages[-1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "hrnet_48"}, 'no model "hrnet_48". Did you mean "hrnet_w48"'),
        ({"name": "hrnet_w48.ms_in1"}, 'no weights "hrnet_w48.ms_in1".*"hrnet_w48.ms_in1k"'),
        ({"name": "vit_tiny_patch16_224"}, "no feature pyramid"),
        ({"out_features": ("res2", "res6")}, 'no "res6". It has res1, res2, res3, res4, res5'),
        ({"norm": "LN"}, '"LN", expected one of BN, SyncBN, FrozenBN, GN'),
        ({"name": "hrnet_w18_small", "norm": "GN"}, "cannot share 16 channels"),
        ({"name": "hrnet_w18_small", "drop_path": 0.1}, "DROP_PATH"),
        ({"name": "hrnet_w18_small", "output_stride": 8}, "OUTPUT_STRIDE"),
        ({"name": SWIN, "output_stride": 16}, "OUTPUT_STRIDE"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        TimmBackbone(**{"name": "resnet18", **options})


def test_timm_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install -e \.\[timm\]"):
        check_timm_model("resnet18")


def test_the_package_is_imported_without_timm():
    code = "import sys; sys.modules['timm'] = None; import sar.config, sar.training, sar.evaluation"
    subprocess.run([sys.executable, "-c", code], check=True)
