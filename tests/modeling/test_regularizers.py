import numpy as np
import pytest
import torch

from sar.errors import InputError
from sar.modeling import build_regularizers

SAR = "configs/CamVid/sar_sem_fpn_R_18.yaml"


def test_every_key_reaches_the_regularizer(small_config):
    prefix = "MODEL.SEMANTIC_ANCHOR."
    cfg = small_config(
        SAR,
        prefix + "ANCHOR_WEIGHT", "2.0", prefix + "PULL_WEIGHT", "0.3",
        prefix + "HARD_ANCHOR_CONFIDENCE", "0.7", prefix + "GATE_CONFIDENCE", "0.6",
        prefix + "MOMENTUM", "0.5", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "254",
    )  # fmt: skip
    regularizer = build_regularizers(cfg, 5, 8)["SemanticAnchorRegularizer"]
    assert regularizer.anchor_weight == 2.0
    assert regularizer.pull_weight == 0.3
    assert regularizer.hard_anchor_confidence == 0.7
    assert regularizer.gate_confidence == 0.6
    assert regularizer.momentum == 0.5
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
        (["MODEL.REGULARIZERS", "('SemanticAnchorRegularizer',) * 2"], "Type mismatch"),
        (["MODEL.REGULARIZERS", str(("SemanticAnchorRegularizer",) * 2)], "twice"),
        (["MODEL.SEMANTIC_ANCHOR.ANCHORS", "orthogonl"], 'mean "orthogonal"'),
        (["MODEL.SEMANTIC_ANCHOR.ANCHORS", "missing.npy"], "missing.npy cannot be read"),
        (["MODEL.SEMANTIC_ANCHOR.MOMENTUM", "3.0"], "momentum must lie"),
    ],
)
def test_what_is_refused(overrides, message, small_config):
    with pytest.raises(InputError, match=message):
        build_regularizers(small_config(SAR, *overrides), 5, 8)
