import numpy as np
import pytest
import torch

from sar.regularizers import (
    SemanticAnchorRegularizer,
    gaussian_anchors,
    load_anchors,
    orthogonal_anchors,
    simplex_etf,
    simplex_etf_anchors,
)


@pytest.mark.parametrize("num_classes", [2, 3, 11, 19, 150, 512])
def test_simplex_etf_has_unit_norms_and_equal_cosines(num_classes):
    frame = simplex_etf(num_classes, max(num_classes, 64))
    cosines = frame @ frame.T
    expected = torch.full_like(cosines, -1 / (num_classes - 1)).fill_diagonal_(1)
    assert frame.shape == (num_classes, max(num_classes, 64))
    assert (cosines - expected).abs().max() < 1e-10


def test_simplex_etf_refuses_more_classes_than_dimensions():
    with pytest.raises(ValueError, match="num_classes=9.*embed_dim=8"):
        simplex_etf(9, 8)
    with pytest.raises(ValueError, match="at least 2"):
        simplex_etf(1, 8)


def test_orthogonal_anchors_are_orthogonal():
    anchors = orthogonal_anchors(5, 16)
    torch.testing.assert_close(anchors @ anchors.T, 16 * torch.eye(5))
    with pytest.raises(ValueError, match="num_classes=17.*embed_dim=16"):
        orthogonal_anchors(17, 16)


@pytest.mark.parametrize("build", [gaussian_anchors, orthogonal_anchors, simplex_etf_anchors])
def test_all_kinds_have_the_same_size_and_serve_sar(build):
    torch.manual_seed(0)
    anchors = build(8, 64)
    assert abs(anchors.norm(dim=1).mean() / 8 - 1) < 0.1
    regularizer = SemanticAnchorRegularizer(8, 64, anchors=anchors)
    losses = regularizer(torch.randn(4, 64), torch.randint(8, (4,)), torch.nn.Linear(64, 8))
    assert losses["loss_sar_anchor"] > 0


def test_anchors_from_a_file(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 4))
    np.save(tmp_path / "anchors.npy", array)
    loaded = load_anchors(tmp_path / "anchors.npy", 3, 4)
    np.testing.assert_allclose(loaded.numpy(), array, rtol=1e-6)


def test_transposed_anchors_are_kept_in_rows():
    """NCCL broadcasts no other buffers."""
    anchors = torch.randn(4, 3).T
    regularizer = SemanticAnchorRegularizer(3, 4, anchors=anchors)
    assert all(buffer.is_contiguous() for buffer in regularizer.buffers())
    assert any(torch.equal(buffer, anchors) for buffer in regularizer.buffers())


def test_anchor_files_that_are_refused(tmp_path):
    def save(array):
        np.save(tmp_path / "anchors.npy", array)
        return tmp_path / "anchors.npy"

    with pytest.raises(ValueError, match=r"\(3, 4\), found \(4, 3\)"):
        load_anchors(save(np.zeros((4, 3))), 3, 4)
    with pytest.raises(ValueError, match="real numbers, found <U1"):
        load_anchors(save(np.full((3, 4), "x")), 3, 4)
    with pytest.raises(ValueError, match="row of class id 2"):
        load_anchors(save(np.array([[1.0], [2.0], [np.inf]])), 3, 1)
    with pytest.raises(ValueError, match="cannot be read"):
        load_anchors(save(np.array([[{}]], dtype=object)), 1, 1)
    with pytest.raises(ValueError, match="cannot be read"):
        load_anchors(tmp_path / "missing.npy", 3, 4)
    (tmp_path / "anchors.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="cannot be read"):
        load_anchors(tmp_path / "anchors.npy", 3, 4)
