import pytest
import torch
from torch import nn

from sar.regularizers import CenterCollapseRegularizer, SemanticAnchorRegularizer
from sar.regularizers.classifier import why_not_linear

K, C = 5, 8


def regularize(kind, classifier):
    regularizer = kind(num_classes=K, embed_dim=C)
    return regularizer(torch.randn(2, C, 4, 4), torch.randint(K, (2, 8, 8)), classifier)


class Cosine(nn.Module):
    """A classifier of another kind, with a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(K, C))

    def forward(self, vectors):
        return nn.functional.normalize(vectors, dim=1) @ self.weight.T


REFUSED = {
    "3x3": (nn.Conv2d(C, K, 3, padding=1), "kernel of 3x3, not 1x1"),
    "3x1": (nn.Conv2d(C, K, (3, 1)), "kernel of 3x1, not 1x1"),
    "3": (nn.Conv1d(C, K, 3), "kernel of 3, not 1"),
    "groups": (nn.Conv2d(C, K * C, 1, groups=C), "8 groups of channels"),
    "stride": (nn.Conv2d(C, K, 1, stride=2), "stride of 2x2, not 1x1"),
    "padding": (nn.Conv2d(C, K, 1, padding=1), "padding of 1x1"),
    "outputs of a convolution": (nn.Conv2d(C, K + 1, 1), "gives 6 classes, not 5"),
    "outputs of a linear layer": (nn.Linear(C, 3), "gives 3 classes, not 5"),
    "3x3 inside": (nn.Sequential(nn.Conv2d(C, K, 3, padding=1)), "contains a Conv2d .* 3x3"),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(C, K, 2)), "ConvTranspose2d .* 2x2"),
}


@pytest.mark.parametrize("kind", [SemanticAnchorRegularizer, CenterCollapseRegularizer])
@pytest.mark.parametrize("name", REFUSED)
def test_a_classifier_that_is_no_linear_map_of_one_embedding(kind, name):
    classifier, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"the classifier .*{message}.*num_classes"):
        regularize(kind, classifier)


@pytest.mark.parametrize("kind", [SemanticAnchorRegularizer, CenterCollapseRegularizer])
@pytest.mark.parametrize(
    "classifier",
    [
        nn.Linear(C, K),
        nn.Conv1d(C, K, 1),
        nn.Conv2d(C, K, 1, padding="same"),
        nn.Conv3d(C, K, 1, bias=False),
        Cosine(),
        nn.Sequential(nn.Dropout(), nn.Linear(C, K)),
        lambda vectors: vectors[:, :K],
    ],
)
def test_a_classifier_that_is_taken(kind, classifier):
    losses = regularize(kind, classifier)
    assert all(loss.isfinite() for loss in losses.values())


def test_what_is_no_layer_is_named():
    assert why_not_linear(nn.ReLU(), K) == "is a ReLU, not a linear layer or 1x1 convolution"
    assert why_not_linear(nn.Linear(C, K), K) is None
