import os
import resource
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from sar.checkpoints.conversion import LAYOUTS, convert
from sar.config import load_config
from sar.errors import InputError

from detectron2.modeling import build_model

from ..programs import load_program

PATH = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"
CONFIG = "configs/CamVid/sar_sem_fpn_R_18.yaml"
K, C = 11, 16 + 32 + 64 + 128  # classes of CamVid, channels of the branches of hrnet_w18_small
SAR = "regularizers.SemanticAnchorRegularizer."
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"]


def test_the_command_line_knows_all_layouts():
    assert load_program(PATH).FORMATS == tuple(LAYOUTS)


def timm_options(name):
    features = "['res2', 'res3', 'res4', 'res5']"
    return [
        *SMALL, "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", name,
        "MODEL.SEM_SEG_HEAD.NAME", "FCNHead", "MODEL.SEM_SEG_HEAD.IN_FEATURES", features,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "0", "MODEL.SEM_SEG_HEAD.NORM", "BN",
    ]  # fmt: skip


def build(options, config=CONFIG):
    return build_model(load_config(config, options)).eval()


@pytest.fixture(scope="module")
def tool():
    return load_program(PATH)


@pytest.fixture(scope="module")
def hrnet_options():
    pytest.importorskip("timm")
    return timm_options("hrnet_w18_small")


@pytest.fixture(scope="module")
def hrnet(hrnet_options):
    return build(hrnet_options)


class State(dict):
    """A state dict of random values, grown layer by layer."""

    def conv(self, name, outputs, inputs, size):
        self[f"{name}.weight"] = torch.randn(outputs, inputs, size, size)

    def linear(self, name, outputs, inputs):
        self[f"{name}.weight"], self[f"{name}.bias"] = (
            torch.randn(outputs, inputs),
            torch.rand(outputs),
        )

    def norm(self, name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            self[f"{name}.{part}"] = torch.rand(channels) + 0.1
        self[f"{name}.num_batches_tracked"] = torch.randint(1, 80000, ())

    def conv_norm(self, name, outputs, inputs, size):
        self.conv(f"{name}.0", outputs, inputs, size)
        self.norm(f"{name}.1", outputs)


def mmseg_hrnet(channels=(16, 32, 64, 128), planes=32, blocks=2):
    """Names and shapes of an HRNet of one module a stage, written down from the architecture."""
    state = State()
    for i, inputs in ((1, 3), (2, 64)):
        state.conv(f"conv{i}", 64, inputs, 3)
        state.norm(f"bn{i}", 64)
    sizes = ((planes, 64, 1), (planes, planes, 3), (4 * planes, planes, 1))
    for i, (outputs, inputs, size) in enumerate(sizes, 1):
        state.conv(f"layer1.0.conv{i}", outputs, inputs, size)
        state.norm(f"layer1.0.bn{i}", outputs)
    state.conv_norm("layer1.0.downsample", 4 * planes, 64, 1)
    for stage in (2, 3, 4):
        before = (4 * planes,) if stage == 2 else channels[: stage - 1]
        for branch in range(stage if stage == 2 else 0):  # from one branch to two
            name = "transition1.0" if branch == 0 else "transition1.1.0"
            state.conv_norm(name, channels[branch], before[0], 3)
        if stage > 2:
            name = f"transition{stage - 1}.{stage - 1}.0"
            state.conv_norm(name, channels[stage - 1], before[-1], 3)
        for branch in range(stage):
            width = channels[branch]
            for block in range(blocks):
                for i in (1, 2):
                    name = f"stage{stage}.0.branches.{branch}.{block}"
                    state.conv(f"{name}.conv{i}", width, width, 3)
                    state.norm(f"{name}.bn{i}", width)
            for other in range(stage):
                name = f"stage{stage}.0.fuse_layers.{branch}.{other}"
                if other > branch:
                    state.conv_norm(name, width, channels[other], 1)
                for step in range(branch - other):
                    last = step == branch - other - 1
                    outputs = width if last else channels[other]
                    state.conv_norm(f"{name}.{step}", outputs, channels[other], 3)
    return state


def authors_checkpoint():
    """All that the reference's SAR holds for HRNet with the FCN head, and an auxiliary head."""
    torch.manual_seed(0)
    state = State({f"backbone.{name}": value for name, value in mmseg_hrnet().items()})
    for head, inputs, channels, size in (("decode_head", C, C, 1), ("auxiliary_head", 64, 8, 3)):
        state.conv(f"{head}.convs.0.conv", channels, inputs, size)
        state.norm(f"{head}.convs.0.bn", channels)
        state.conv(f"{head}.conv_seg", K, channels, 1)
        state[f"{head}.conv_seg.bias"] = torch.randn(K)
    for i in (0, 3):
        state.linear(f"projecter_linear.{i}", C, C)
        state.norm(f"projecter_linear.{i + 1}", C)
    state.conv("projecter.conv", C, C, 1)
    state.norm("projecter.bn", C)
    state["random_center"] = torch.randn(K, C)
    state["momentum_center_feat"] = torch.rand(K, C)
    state["update_flag"] = torch.tensor(1)
    state["center_lbl"] = torch.arange(K)
    state["local_iter"] = torch.tensor([80000])
    return dict(state)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_authors_checkpoint(tool, hrnet_options, tmp_path, capsys, caplog, wrapped, auxiliary):
    theirs = authors_checkpoint()
    content = {"state_dict": theirs, "meta": {"iter": 80000}} if wrapped else theirs
    torch.save(content, tmp_path / "theirs.pth")
    options = list(hrnet_options)
    if auxiliary:
        options += [
            "MODEL.AUXILIARY_HEAD.IN_FEATURE",
            "res4",
            "MODEL.AUXILIARY_HEAD.CONVS_DIM",
            "8",
        ]
    line = ["--config-file", CONFIG, "--output"]
    ours_path = str(tmp_path / "ours.pth")
    theirs_path = str(tmp_path / "theirs.pth")
    line_from = [*line, ours_path, "--from", "mmseg", "--input", theirs_path, *options]
    assert tool.main(line_from) == 0
    out = capsys.readouterr().out
    for word in ("center_lbl", "local_iter"):
        assert f"  {word}\n" in out
    assert ("auxiliary_head.convs (" in out) is not auxiliary
    assert ("Not weights, left out: meta" in out) is wrapped
    assert caplog.text == ""

    ours = torch.load(ours_path, weights_only=True)
    build(options).load_state_dict(ours["model"])  # strictly: not one name more or less
    assert not torch.equal(ours["model"]["sem_seg_head.predictor.bias"], torch.zeros(K))

    moved = {f"{SAR}anchors": "random_center", f"{SAR}semantic_anchors": "momentum_center_feat"}
    moved["sem_seg_head.convs.0.weight"] = "decode_head.convs.0.conv.weight"
    moved["backbone.body.stage4.0.branches.3.1.bn2.bias"] = (
        "backbone.stage4.0.branches.3.1.bn2.bias"
    )
    for name, source in moved.items():
        assert torch.equal(ours["model"][name], theirs[source]), name
    assert ours["model"][f"{SAR}gate_has_opened"].dtype == torch.bool
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["ours.pth", "theirs.pth"]


def test_the_projector_means_the_same(hrnet):
    theirs = authors_checkpoint()
    converted = convert(theirs, LAYOUTS["mmseg"], hrnet.state_dict()).weights
    projector = hrnet.regularizers["SemanticAnchorRegularizer"].projector.eval()
    start = f"{SAR}projector."
    projector.load_state_dict(
        {n.removeprefix(start): v for n, v in converted.items() if n.startswith(start)}
    )

    def norm(x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(x, *(theirs[f"{name}.{part}"] for part in parts)))

    x = theirs["random_center"]
    for i in (0, 3):
        name = f"projecter_linear.{i}"
        x = norm(
            F.linear(x, theirs[f"{name}.weight"], theirs[f"{name}.bias"]), name[:-1] + str(i + 1)
        )
    x = norm(F.conv2d(x[:, :, None, None], theirs["projecter.conv.weight"]), "projecter.bn")
    assert torch.equal(converted[f"{SAR}anchors"], theirs["random_center"])
    assert torch.allclose(projector(converted[f"{SAR}anchors"]), x.flatten(1), rtol=1e-3)


@pytest.mark.parametrize("source", ["mmseg", "timm"])
def test_hrnet_of_imagenet(hrnet, source):
    state = mmseg_hrnet()
    state.conv("incre_modules.0.0.conv1", 32, 16, 1)
    state.conv("downsamp_modules.0.0", 256, 128, 3)
    state.conv("final_layer.0", 2048, 1024, 1)
    state.linear("classifier", 1000, 2048)
    conversion = convert(state, LAYOUTS[source], hrnet.state_dict())
    body = {n.removeprefix("backbone.body."): v for n, v in conversion.weights.items()}
    assert_same(body, mmseg_hrnet() | {n: state[n] for n in body})
    assert set(conversion.unused) == set(state) - set(body)
    assert all(n.startswith(("sem_seg_head.", "regularizers.")) for n in conversion.missing)
    hrnet.backbone.body.load_state_dict(body)


@pytest.mark.parametrize("backbone", ["FPN", "plain", "timm"])
def test_torchvisions_resnet_gives_the_same_features(backbone):
    options = [*SMALL, "MODEL.WEIGHTS", ""]
    if backbone == "timm":
        pytest.importorskip("timm")
        options = timm_options("resnet18")
    elif backbone == "plain":
        options += [
            "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.SEM_SEG_HEAD.IN_FEATURES",
            "['res2', 'res3', 'res4', 'res5']",
        ]  # fmt: skip
    model, theirs = build(options), torchvision.models.resnet18().eval()
    for name, buffer in theirs.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    conversion = convert(theirs.state_dict(), LAYOUTS["torchvision"], model.state_dict())
    assert set(conversion.unused) == {"fc.weight", "fc.bias"}
    assert model.load_state_dict(conversion.weights, strict=False).unexpected_keys == []
    images = torch.randn(1, 3, 64, 64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    with torch.no_grad():
        features = getattr(model.backbone, "bottom_up", model.backbone)(images)
        for i in (1, 2, 3, 4):
            x = getattr(theirs, f"layer{i}")(x)
            assert torch.allclose(features[f"res{i + 1}"], x, atol=1e-5)


def test_counts_of_batches_are_left_out_where_norms_are_frozen():
    model = build([*SMALL[:2], "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", "BN"])
    state = torchvision.models.resnet18().state_dict()
    conversion = convert(state, LAYOUTS["torchvision"], model.state_dict())
    counts = {name for name in state if name.endswith("num_batches_tracked")}
    assert counts and set(conversion.unused) == counts | {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("source", ["torchvision", "timm", "swin"])
def test_swin(source):
    timm = pytest.importorskip("timm")
    model = build(timm_options("swin_tiny_patch4_window7_224"))
    if source == "torchvision":
        theirs = torchvision.models.swin_t().eval()
        state = theirs.state_dict()
    else:
        state = timm.create_model("swin_tiny_patch4_window7_224").state_dict()
    if source == "swin":  # merges at the end of a stage, and keeps tables
        for n in (1, 2, 3):
            for name in [name for name in state if name.startswith(f"layers.{n}.downsample.")]:
                state[name.replace(f".{n}.", f".{n - 1}.", 1)] = state.pop(name)
        state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
        state["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(49, 49)
    conversion = convert(state, LAYOUTS[source], model.state_dict())
    assert all(
        name.startswith(("norm.", "head.")) or name.endswith(("position_index", "attn_mask"))
        for name in conversion.unused
    )
    assert len(conversion.weights) == len([n for n in model.state_dict() if "backbone" in n])
    if source == "torchvision":
        model.load_state_dict(conversion.weights, strict=False)
        x = torch.randn(1, 3, 224, 224)
        with torch.no_grad():
            # In the coarsest stage, one window, the two differ: ours shifts it.
            features = model.backbone(x)
            for i, layer in enumerate(theirs.features[:6]):
                x = layer(x)
                if i % 2:
                    ours = features[f"res{i // 2 + 2}"]
                    assert torch.allclose(ours, x.permute(0, 3, 1, 2), atol=1e-4)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_mobile_networks_of_timm(name):
    timm = pytest.importorskip("timm")
    model, theirs = build(timm_options(name)), timm.create_model(name).eval()
    conversion = convert(theirs.state_dict(), LAYOUTS["timm"], model.state_dict())
    parts = {name.partition(".")[0] for name in conversion.unused}
    assert parts - {"bn2"} == {"conv_head", "classifier"}
    assert all(name.startswith(("sem_seg_head.", "regularizers.")) for name in conversion.missing)
    model.load_state_dict(conversion.weights, strict=False)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, intermediates_only=True)
        for feature, wanted in zip(model.backbone(images).values(), expected[1:], strict=True):
            assert torch.allclose(feature, wanted, atol=1e-5)


def change(state, what):
    if what == "unknown name":
        state["backbone.stage5.0.weight"] = torch.zeros(1)
    elif what == "unknown part":
        state["projecter_linear.6.weight"] = torch.zeros(C, C)
    elif what == "other classes":
        state["decode_head.conv_seg.weight"] = torch.zeros(19, C, 1, 1)
    elif what == "half a backbone":
        del state["backbone.stage4.0.branches.3.1.conv2.weight"]
    elif what == "twice":
        state["conv1.weight"] = state["backbone.conv1.weight"]


@pytest.mark.parametrize(
    "what, expected",
    [
        ("unknown name", r"1 of its names .* backbone\.stage5\.0\.weight\."),
        ("unknown part", r"projecter_linear\.6\.weight"),
        ("other classes", r"decode_head\.conv_seg\.weight is 19x240x1x1, but .* is 11x240x1x1"),
        (
            "half a backbone",
            r"backbone\.body is incomplete.* lacks 1 .*stage4\.0\.branches\.3\.1\.conv2\.weight",
        ),
        ("twice", r"backbone\.conv1\.weight and conv1\.weight both become"),
    ],
)
def test_what_does_not_fit_is_named(hrnet, what, expected):
    state = authors_checkpoint()
    change(state, what)
    with pytest.raises(InputError, match=expected):
        convert(state, LAYOUTS["mmseg"], hrnet.state_dict())


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


def test_files_that_are_no_checkpoints(tool, tmp_path, capsys):
    state = nn.Linear(2, 2).state_dict()
    torch.save({"model": state}, tmp_path / "other.pth")
    whole = (tmp_path / "other.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "changed.pth").write_bytes(
        whole.replace(state["weight"].numpy().tobytes(), b"0" * 16)
    )
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Harmful()}, tmp_path / "code.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    torch.save([1], tmp_path / "list.pth")
    torch.save({1: torch.zeros(1)}, tmp_path / "numbers.pth")
    torch.save({"a": torch.zeros(1, device="meta")}, tmp_path / "meta.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    output = tmp_path / "output.pth"
    line = ["--config-file", CONFIG, "--from", "torchvision", "--output", str(output)]
    for name, expected in {
        "other": "2 of its names are unknown",
        "half": "cannot be read",
        "changed": "is damaged: download or write the file again",
        "text": "truncated, not a checkpoint",
        "code": "could run code",
        "epoch": "holds no state dict",
        "list": "holds a list",
        "numbers": "holds no state dict",
        "meta": "holds no state dict",
        "pipe": "No such file",
        "nowhere": "No such file",
    }.items():
        assert tool.main([*line, "--input", str(tmp_path / f"{name}.pth"), *SMALL]) == 1
        out, message = capsys.readouterr()
        assert message.startswith("error: ") and expected in message, message
        assert f"{name}.pth" in message and out == ""
    assert not output.exists()


def test_a_full_disk(tool, tmp_path, capsys):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    line = ["--config-file", CONFIG, "--from", "torchvision", "--quiet"]
    line += ["--input", str(tmp_path / "resnet18.pth"), "--output", str(tmp_path / "ours.pth")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        assert tool.main([*line, *SMALL]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (message,) = capsys.readouterr().err.splitlines()
    assert "ours.pth cannot be written" in message and "File too large" in message
    assert not (tmp_path / "ours.pth").exists()


def test_settings_that_spoil_such_weights_are_named(tool, tmp_path, caplog, capsys):
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "resnet50.pth")
    paths = ["--output", str(tmp_path / "ours.pth"), "--input", str(tmp_path / "resnet50.pth")]
    config = "configs/ADE20K/sar_sem_fpn_R_50.yaml"
    options = [*SMALL, "INPUT.FORMAT", "BGR", "MODEL.RESNETS.STRIDE_IN_1X1", "True"]
    line = ["--config-file", config, "--from", "torchvision", *paths]
    assert tool.main([*line, "--verbose", *options]) == 0
    assert "INPUT.FORMAT RGB, but the config has BGR" in caplog.text
    assert "MODEL.RESNETS.STRIDE_IN_1X1 False, but the config has True" in caplog.text
    assert "  fc.weight\n  fc.bias\n" in capsys.readouterr().out
    assert tool.main([*line, "--quiet", *options]) == 0
    assert capsys.readouterr().out == ""


def test_warnings_about_backbones_of_timm(tool, tmp_path, caplog):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "theirs.pth")
    config = "configs/CamVid/baseline_sem_fpn_efficientnet_lite0.yaml"
    line = ["--config-file", config, "--from", "timm", "--input", str(tmp_path / "theirs.pth")]
    line += ["--output", str(tmp_path / "ours.pth"), "--quiet"]
    assert tool.main([*line, "MODEL.TIMM.CHECKPOINT", "", "MODEL.BACKBONE.FREEZE_AT", "2"]) == 0
    assert caplog.text == ""
    assert tool.main([*line, "MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]"]) == 0
    (message,) = [record.getMessage() for record in caplog.records]
    assert "MODEL.PIXEL_MEAN [127.5, 127.5, 127.5]" in message


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_neither_the_input_nor_a_file_of_the_user_is_replaced(tool, tmp_path, capsys, more):
    source, link = tmp_path / "model.pth", tmp_path / "link.pth"
    source.write_text("weights")
    link.symlink_to(source)
    line = ["--config-file", CONFIG, "--from", "timm", "--input", str(source), *more, "--output"]
    for output in (source, link):
        assert tool.main([*line, str(output)]) == 1
        assert f"{output} is the input {source}" in capsys.readouterr().err
    assert source.read_text() == "weights" and link.is_symlink()
    (tmp_path / "notes.pth").write_text("notes")
    assert tool.main([*line, str(tmp_path / "notes.pth")]) == 1
    expected = "not a checkpoint" if more else "add --overwrite"  # the weights are none
    assert expected in capsys.readouterr().err
    assert (tmp_path / "notes.pth").read_text() == "notes"
    with pytest.raises(SystemExit):
        tool.main([*line, str(tmp_path / "R-50.pkl")])
    assert "R-50.pkl has to end in .pth" in capsys.readouterr().err
