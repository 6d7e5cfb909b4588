import numpy as np
import pytest
import torch

from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError
from sar.modeling import build_regularizers

from detectron2.solver.build import get_default_optimizer_params

SAR = "configs/CamVid/sar_sem_fpn_R_18.yaml"

CECO = ("MODEL.REGULARIZERS", "('CenterCollapseRegularizer',)")


@pytest.fixture
def frequency_file(tmp_path):
    path = tmp_path / "class_frequency.json"
    frequency = ClassFrequency(
        class_names=("a", "b", "c", "d", "e"),
        num_images=20,
        images=(20, 10, 5, 4, 1),
        pixels=(1, 1, 1, 1, 1),
        ignored_pixels=0,
    )
    frequency.save(path)
    return str(path)


def test_every_key_reaches_the_regularizer(small_config):
    prefix = "MODEL.SEMANTIC_ANCHOR."
    cfg = small_config(
        SAR,
        prefix + "ANCHOR_WEIGHT", "2.0", prefix + "PULL_WEIGHT", "0.3",
        prefix + "HARD_ANCHOR_CONFIDENCE", "0.7", prefix + "GATE_CONFIDENCE", "0.6",
        prefix + "MOMENTUM", "0.5", prefix + "PULL_OVER", "classes",
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "254",
    )  # fmt: skip
    regularizer = build_regularizers(cfg, 5, 8)["SemanticAnchorRegularizer"]
    assert regularizer.anchor_weight == 2.0
    assert regularizer.pull_weight == 0.3
    assert regularizer.hard_anchor_confidence == 0.7
    assert regularizer.gate_confidence == 0.6
    assert regularizer.momentum == 0.5
    assert regularizer.pull_over == "classes"
    assert regularizer.ignore_value == 254
    assert regularizer.anchors.shape == (5, 8)


def test_kinds_of_anchors(small_config, tmp_path):
    def anchors(kind):
        cfg = small_config(SAR, "MODEL.SEMANTIC_ANCHOR.ANCHORS", kind)
        return build_regularizers(cfg, 5, 8)["SemanticAnchorRegularizer"].anchors

    torch.manual_seed(0)
    gaussian = anchors("gaussian")
    torch.manual_seed(0)
    assert torch.equal(gaussian, torch.randn(5, 8))
    orthogonal = anchors("orthogonal")
    torch.testing.assert_close(orthogonal @ orthogonal.T, 8 * torch.eye(5))
    frame = anchors("simplex_etf")
    assert torch.allclose((frame @ frame.T)[0, 1:], torch.tensor(-8 / 4))
    np.save(tmp_path / "anchors.npy", np.arange(40.0).reshape(5, 8))
    assert torch.equal(anchors(str(tmp_path / "anchors.npy")), torch.arange(40.0).reshape(5, 8))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["MODEL.REGULARIZERS", "('SemanticAnchorRegularizr',)"], 'mean "SemanticAnchorRegul'),
        (["MODEL.REGULARIZERS", "('SemanticAnchorRegularizer',) * 2"], "expected names"),
        (["MODEL.REGULARIZERS", str(("SemanticAnchorRegularizer",) * 2)], "twice"),
        (["MODEL.SEMANTIC_ANCHOR.ANCHORS", "orthogonl"], 'mean "orthogonal"'),
        (["MODEL.SEMANTIC_ANCHOR.ANCHORS", "missing.npy"], "file not found: missing.npy"),
        (["MODEL.SEMANTIC_ANCHOR.MOMENTUM", "3.0"], "momentum must lie"),
    ],
)
def test_what_is_refused(overrides, message, small_config):
    with pytest.raises(InputError, match=message):
        build_regularizers(small_config(SAR, *overrides), 5, 8)


def test_every_key_reaches_ceco(small_config, frequency_file):
    prefix = "MODEL.CENTER_COLLAPSE."
    cfg = small_config(
        SAR, *CECO,
        prefix + "WEIGHT", "0.8", prefix + "SCALE", "2.0", prefix + "PROJECTION_DIM", "7",
        prefix + "DROPOUT", "0.3", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "254",
        "DATASETS.CLASS_FREQUENCY", frequency_file,
    )  # fmt: skip
    regularizer = build_regularizers(cfg, 5, 8)["CenterCollapseRegularizer"]
    assert regularizer.weight == 0.8
    assert regularizer.scale == 2.0
    assert regularizer.etf.shape == (5, 7)
    assert regularizer.dropout.p == 0.3
    assert regularizer.ignore_value == 254
    assert regularizer.class_frequencies.tolist() == [20, 10, 5, 4, 1]


def test_ceco_without_logit_adjustment_or_projection(small_config, frequency_file, caplog):
    overrides = ["DATASETS.CLASS_FREQUENCY", frequency_file]
    cfg = small_config(SAR, *CECO, *overrides, "MODEL.CENTER_COLLAPSE.LOGIT_ADJUSTMENT", "False")
    assert build_regularizers(cfg, 5, 8)["CenterCollapseRegularizer"].class_frequencies is None
    cfg = small_config(SAR, *CECO, *overrides, "MODEL.CENTER_COLLAPSE.PROJECTION_DIM", "0")
    regularizer = build_regularizers(cfg, 5, 8)["CenterCollapseRegularizer"]
    assert set(regularizer.state_dict()) == {"etf"} and regularizer.etf.shape == (5, 8)
    assert not caplog.records


def test_ceco_says_that_it_knows_no_frequencies(small_config, caplog):
    regularizer = build_regularizers(small_config(SAR, *CECO), 5, 8)["CenterCollapseRegularizer"]
    assert regularizer.class_frequencies is None
    assert "The class frequencies are unknown" in caplog.text


def test_ceco_stays_out_of_the_optimizer(small_config, frequency_file):
    cfg = small_config(SAR, *CECO, "DATASETS.CLASS_FREQUENCY", frequency_file)
    regularizer = build_regularizers(cfg, 5, 8)["CenterCollapseRegularizer"]
    assert len(list(regularizer.parameters())) == 3
    assert get_default_optimizer_params(regularizer, base_lr=0.1) == []


def test_ceco_settings_that_are_refused(small_config, frequency_file):
    def build(num_classes, *overrides):
        build_regularizers(small_config(SAR, *CECO, *overrides), num_classes, 8)

    with pytest.raises(InputError, match="num_classes=9 .* projection_dim=8"):
        build(9, "MODEL.CENTER_COLLAPSE.PROJECTION_DIM", "8")
    with pytest.raises(InputError, match="num_classes=9 .* embed_dim=8"):
        build(9, "MODEL.CENTER_COLLAPSE.PROJECTION_DIM", "0")
    with pytest.raises(InputError, match="class_frequencies: expected 6 numbers .* found shape .5"):
        build(6, "DATASETS.CLASS_FREQUENCY", frequency_file)
    with pytest.raises(InputError, match="missing.json: the file does not exist"):
        build(5, "DATASETS.CLASS_FREQUENCY", "missing.json")


def test_sar_needs_a_classifier(small_config):
    with pytest.raises(InputError, match='MODEL.CLASSIFIER is "", but SemanticAnchorRegularizer'):
        build_regularizers(small_config(SAR, "MODEL.CLASSIFIER", ""), 5, 8)


@pytest.mark.parametrize(
    "name, group",
    [
        ("PrototypeRegularizer", "PROTOTYPE"),
        ("PrototypeContrastRegularizer", "PROTOTYPE_CONTRAST"),
        ("CenterLossRegularizer", "CENTER_LOSS"),
        ("ClassAwareRegularizer", "CLASS_AWARE"),
    ],
)
def test_every_key_reaches_the_methods_for_comparison(name, group, small_config):
    cfg = small_config(SAR, "MODEL.REGULARIZERS", f"('{name}',)")
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 254
    settings = cfg.MODEL[group]
    changed = {
        key: "classes" if value == "pixels" else value / 2 for key, value in settings.items()
    }
    settings.update(changed)
    regularizer = build_regularizers(cfg, 5, 8)[name]
    assert (regularizer.num_classes, regularizer.embed_dim) == (5, 8)
    assert regularizer.ignore_value == 254
    for key, value in changed.items():
        owner = regularizer.memory if key == "MOMENTUM" else regularizer
        assert getattr(owner, key.lower()) == value


def test_wrong_keys_of_a_method_for_comparison_are_named(small_config):
    overrides = [
        "MODEL.REGULARIZERS",
        "('CenterLossRegularizer',)",
        "MODEL.CENTER_LOSS.ALPHA",
        "3.0",
    ]
    with pytest.raises(
        InputError, match="MODEL.CENTER_LOSS, CenterLossRegularizer: alpha must lie"
    ):
        build_regularizers(small_config(SAR, *overrides), 5, 8)
