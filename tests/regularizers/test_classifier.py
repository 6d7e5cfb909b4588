import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sar.regularizers import CenterCollapseRegularizer, SemanticAnchorRegularizer
from sar.regularizers.classifier import check_classifier, why_not_linear
from sar.regularizers.classifier_trial import _Identity

from detectron2.layers import Conv2d

K, C = 5, 8
CPU = torch.device("cpu")


def regularize(kind, classifier):
    regularizer = kind(num_classes=K, embed_dim=C)
    return regularizer(torch.randn(2, C, 4, 4), torch.randint(K, (2, 8, 8)), classifier)


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(K, C))

    def forward(self, vectors):
        return F.normalize(vectors, dim=1) @ self.weight.T


class Convolution(nn.Module):
    """A convolution that no attribute tells of."""

    def __init__(self, *kernel, **options):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(K, C, *kernel))
        self.options = options

    def forward(self, embeddings):
        return F.conv2d(embeddings, self.kernel, **self.options)


class Rectified(nn.Conv2d):
    def forward(self, embeddings):
        return super().forward(embeddings).relu()


class Counted(nn.Linear):
    """A linear layer that counts its calls."""

    def __init__(self, *args):
        super().__init__(*args)
        self.calls = 0

    def forward(self, vectors):
        self.calls += 1
        return super().forward(vectors)


def hidden_relu():
    """A layer whose bias puts ReLU to 0 for embeddings of usual size."""
    layer = Rectified(C, K, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, -4.6)
    return layer


def zero_layer():
    layer = Conv2d(C, K, 1)
    nn.init.zeros_(layer.weight)
    return layer


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, but models of others are scripted
        return torch.jit.script(module)


REFUSED = {
    "3x3": (nn.Conv2d(C, K, 3, padding=1), "kernel of 3x3, not 1x1"),
    "3x1": (nn.Conv2d(C, K, (3, 1)), "kernel of 3x1, not 1x1"),
    "3": (nn.Conv1d(C, K, 3), "kernel of 3, not 1"),
    "groups": (nn.Conv2d(C, K * C, 1, groups=C), "8 groups of channels"),
    "stride": (nn.Conv2d(C, K, 1, stride=2), "stride of 2x2, not 1x1"),
    "padding": (nn.Conv2d(C, K, 1, padding=1), "padding of 1x1"),
    "outputs of a convolution": (nn.Conv2d(C, K + 1, 1), "gives 6 classes, not 5"),
    "outputs of a linear layer": (nn.Linear(C, 3), "gives 3 classes, not 5"),
    "inputs of a linear layer": (nn.Linear(C + 1, K), "reads 9 channels, not 8"),
    "inputs of a convolution": (nn.Conv2d(C + 1, K, 1), "reads 9 channels, not 8"),
    "3x3 inside": (nn.Sequential(nn.Conv2d(C, K, 3, padding=1)), "contains a Conv2d .* 3x3"),
    "stride inside": (nn.Sequential(nn.Conv2d(C, K, 1, stride=2)), "contains .* stride of 2x2"),
    "groups inside": (
        nn.Sequential(nn.Conv2d(C, C, 1, groups=4), nn.Conv2d(C, K, 1)),
        "contains a Conv2d that has 4 groups",
    ),
    "outputs inside": (nn.Sequential(nn.Conv2d(C, K + 1, 1)), r"not \(1090, 5\)"),
    "batch norm": (nn.Sequential(nn.Conv2d(C, K, 1), nn.BatchNorm2d(K)), "contains a BatchNorm2d"),
    "3x3 that no attribute tells of": (Convolution(3, 3, padding=1), "mixes an embedding"),
    "dilated": (Convolution(3, 3, padding=24, dilation=24), "mixes an embedding"),
    "stride that no attribute tells of": (
        Convolution(1, 1, stride=2),
        r"does not keep the size .* 33x33 pixels \(\(1, 5, 17, 17\)\)",
    ),
    "3x3 without padding": (Convolution(3, 3), "cannot be called with 8 channels: .*size"),
    "scripted 3x3": (scripted(nn.Conv2d(C, K, 3, padding=1)), "mixes an embedding"),
    "pooling": (nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(C, K, 1)), "mixes an embedding"),
    "pooling to one": (
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, K, 1)),
        r"does not keep the size",
    ),
    "cosine": (Cosine(), "not linear"),
    "ReLU of a subclass": (Rectified(C, K, 1), "not linear"),
    "ReLU that a bias hides": (hidden_relu(), "not linear"),
    "norm": (nn.Sequential(nn.Conv2d(C, K, 1), nn.GroupNorm(1, K)), "not linear"),
    "two layers": (nn.Sequential(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, K)), "not linear"),
    "norm of detectron2's layer": (Conv2d(C, K, 1, norm=nn.GroupNorm(1, K)), "not linear"),
    "activation of detectron2's layer": (Conv2d(C, K, 1, activation=F.relu), "not linear"),
    "function": (lambda vectors: vectors[:, :K].relu(), "not linear"),
    "function of maps": (
        lambda vectors: F.avg_pool2d(
            vectors[..., None, None] if vectors.dim() == 2 else vectors,
            3,
            1,
            1,
            count_include_pad=False,
        )[:, :K],
        "mixes an embedding",
    ),
    "method": (nn.Conv2d(C, K, 3, padding=1).forward, "mixes an embedding"),
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
        Conv2d(C, K, 1),
        Convolution(1, 1),
        scripted(nn.Conv2d(C, K, 1)),
        nn.Conv2d(C, K, 1).forward,
        nn.utils.parametrizations.weight_norm(nn.Conv2d(C, K, 1)),
        nn.Sequential(nn.Dropout(), nn.Linear(C, K)),
        nn.Sequential(nn.Dropout2d(), nn.Conv2d(C, K, 1)),
        nn.Sequential(nn.Conv2d(C, 2 * C, 1), nn.Conv2d(2 * C, K, 1, bias=False)),
        nn.Sequential(nn.Conv3d(C, K, 1)),
        zero_layer(),
        lambda vectors: vectors[..., :K],
        lambda vectors: vectors[:, :K],
    ],
)
def test_a_classifier_that_is_taken(kind, classifier):
    losses = regularize(kind, classifier)
    assert all(loss.isfinite() for loss in losses.values())


def test_what_is_no_layer_is_named():
    assert why_not_linear(nn.ReLU(), K) == "is a ReLU, not a linear layer or 1x1 convolution"
    assert why_not_linear(nn.Linear(C, K), K) is None


def test_a_subclass_is_tried_out_when_it_is_asked_for_by_name():
    assert why_not_linear(Conv2d(C, K, 1), K) is None
    assert "not linear" in why_not_linear(Conv2d(C, K, 1, activation=F.relu), K)


def test_a_trial_is_made_once():
    layer = Counted(C, K)
    regularize(SemanticAnchorRegularizer, layer)
    for kind, calls in ((SemanticAnchorRegularizer, 1), (CenterCollapseRegularizer, 0)):
        before = layer.calls
        regularize(kind, layer)
        assert layer.calls == before + calls


def test_a_function_that_is_made_again_in_each_step_is_tried_out_once():
    layer = Counted(C, K)
    calls = []
    for _ in range(3):
        before = layer.calls
        regularize(SemanticAnchorRegularizer, lambda vectors: layer(vectors))
        calls.append(layer.calls - before)
    assert calls[0] > 1 and calls[1:] == [1, 1]


def test_functions_of_one_code_are_told_apart_by_what_they_use():
    def wrapped(layer):
        return lambda embeddings: layer(
            embeddings if embeddings.dim() > 2 else embeddings[..., None, None]
        )

    def wrapped_by_default(layer):
        return lambda embeddings, layer=layer: wrapped(layer)(embeddings)

    for wrap in (wrapped, wrapped_by_default):
        check_classifier(wrap(nn.Conv2d(C, K, 1)), K, C, CPU)
        with pytest.raises(ValueError, match="mixes"):
            check_classifier(wrap(nn.Conv2d(C, K, 3, padding=1)), K, C, CPU)
        with pytest.raises(ValueError, match="mixes"):
            check_classifier(partial(wrap(nn.Conv2d(C, K, 3, padding=1))), K, C, CPU)


def test_an_object_at_the_address_of_another_one_is_another_object():
    class Thing:
        pass

    thing = Thing()
    identity = _Identity(thing)
    assert identity == _Identity(thing) and _Identity(5) == _Identity(5)
    del thing
    others = [Thing() for _ in range(1000)]
    same_address = [each for each in others if id(each) == identity.address]
    assert same_address and all(_Identity(each) != identity for each in others)


def test_what_passed_with_other_sizes_is_tried_out_again():
    classifier = nn.Sequential(nn.Linear(C, K))
    check_classifier(classifier, K, C, CPU)
    with pytest.raises(ValueError, match=r"not \(1090, 6\)"):
        check_classifier(classifier, K + 1, C, CPU)


def test_a_trial_leaves_modes_statistics_gradients_and_random_numbers_alone():
    layer = nn.Sequential(nn.Dropout(), nn.utils.spectral_norm(Counted(C, K)))
    layer[0].eval()
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check_classifier(layer, K, C, CPU)
    assert torch.equal(torch.rand(3), expected)
    assert layer.training and layer[1].training and not layer[0].training
    assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())
    assert all(parameter.grad is None for parameter in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_trial_in_the_precision_of_the_weight(dtype):
    check_classifier(nn.Sequential(nn.Conv2d(C, K, 1)).to(dtype), K, C, CPU)
    with pytest.raises(ValueError, match="not linear"):
        check_classifier(Rectified(C, K, 1).to(dtype), K, C, CPU)


def test_without_values_there_is_no_trial():
    check_classifier(Conv2d(C, K, 1).to("meta"), K, C, torch.device("meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="host synchronisation needs a GPU")
def test_no_host_synchronisation_after_the_first_step():
    layer = Conv2d(C, K, 1).cuda()
    regularizer = SemanticAnchorRegularizer(K, C).cuda()
    embeddings = torch.randn(2, C, 4, 4, device="cuda")
    labels = torch.randint(K, (2, 8, 8), device="cuda")
    regularizer(embeddings, labels, layer)
    torch.cuda.set_sync_debug_mode("error")
    try:
        regularizer(embeddings, labels, layer)
    finally:
        torch.cuda.set_sync_debug_mode("default")
