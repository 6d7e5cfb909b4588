"""Properties that all losses share."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sar.losses import (
    CrossEntropy,
    Dice,
    Focal,
    HardPixelMining,
    LogitAdjustment,
    Lovasz,
    Seesaw,
    WeightedSum,
)

from ..autograd import LargestTensor

K, IGNORE, STRIDE = 5, 255, 4
PIXELS = torch.tensor((70_000, 900, 29_000, 0, 100))
WEIGHTS = torch.tensor([0.2, 1.5, 0.7, 3.0, 9.0])
LOSSES = {
    "cross_entropy": lambda fused: CrossEntropy(IGNORE, fused=fused),
    "weighted cross_entropy": lambda fused: CrossEntropy(IGNORE, WEIGHTS, fused=fused),
    "hard_pixel_mining": lambda fused: HardPixelMining(IGNORE, 0.2, fused=fused),
    "weighted hard_pixel_mining": lambda fused: HardPixelMining(IGNORE, 0.2, WEIGHTS, fused=fused),
    "focal": lambda fused: Focal(IGNORE, fused=fused),
    "weighted focal": lambda fused: Focal(IGNORE, 0.5, WEIGHTS, fused=fused),
    "logit_adjustment": lambda fused: LogitAdjustment(PIXELS, IGNORE, fused=fused),
}
# These are computed in one way only.
OTHERS = {
    "seesaw": lambda: Seesaw(K, IGNORE),
    "dice": lambda: Dice(IGNORE),
    "lovasz": lambda: Lovasz(IGNORE),
}
NAMES = [*LOSSES, *(f"fused {name}" for name in LOSSES), *OTHERS]


def build(name):
    if name in OTHERS:
        return OTHERS[name]()
    return LOSSES[name.removeprefix("fused ")](name.startswith("fused"))


@pytest.fixture(params=NAMES)
def criterion(request):
    return build(request.param)


def logits_and_labels(device="cpu"):
    """Logits (2, K, 4, 6) at a stride of 4 and labels, a part of them ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, K, 4, 6, generator=generator).to(device).requires_grad_()
    labels = torch.randint(K, (2, 16, 24), generator=generator)
    labels[:, :8] = IGNORE
    return logits, labels.to(device)


@pytest.mark.parametrize("name", LOSSES)
def test_fused_equals_the_plain_computation_to_rounding(name):
    logits, labels = logits_and_labels()
    found, wanted = (LOSSES[name](fused)(logits, labels, STRIDE) for fused in (True, False))
    torch.testing.assert_close(found, wanted, rtol=2e-6, atol=0)
    gradients = (torch.autograd.grad(value, logits)[0] for value in (found, wanted))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_logits_of_ignored_pixels_have_no_effect(criterion):
    logits = torch.randn(2, K, 6, 8)
    labels = torch.randint(K, (2, 6, 8))
    labels[torch.rand(labels.shape) < 0.5] = IGNORE
    other = torch.where((labels == IGNORE)[:, None], 50 * torch.randn_like(logits), logits)
    values, gradients = [], []
    for z in (logits.requires_grad_(), other.requires_grad_()):
        value = copy.deepcopy(criterion)(z, labels)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, z)[0])
    assert torch.equal(*values) and torch.equal(*gradients)
    assert (gradients[0].movedim(1, -1)[labels == IGNORE] == 0).all()
    assert (gradients[0].movedim(1, -1)[labels != IGNORE] != 0).any()


def test_a_batch_without_valid_pixels_gives_zero(criterion):
    logits, labels = logits_and_labels()
    value = criterion(logits, labels.fill_(IGNORE), STRIDE)
    value.backward()
    assert value == 0 and (logits.grad == 0).all()
    assert F.cross_entropy(
        torch.randn(1, K, 2), torch.full((1, 2), IGNORE), ignore_index=IGNORE
    ).isnan()


def test_the_value_without_a_gradient(criterion):
    logits, labels = logits_and_labels()
    expected = copy.deepcopy(criterion)(logits, labels, STRIDE)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = copy.deepcopy(criterion)(logits.detach().clone(), labels.clone(), STRIDE)
        assert not found.requires_grad and torch.equal(found, expected.detach())


def test_samples_are_an_image_with_one_row(criterion):
    logits, labels = torch.randn(30, K), torch.randint(K, (30,))
    labels[::4] = IGNORE
    found = copy.deepcopy(criterion)(logits, labels)
    assert found == criterion(logits.T[None, :, None], labels[None, None])


def test_a_batch_without_samples_gives_zero(criterion):
    if isinstance(criterion, HardPixelMining):
        pytest.skip("no share of no pixels")
    logits = torch.randn(0, K, requires_grad=True)
    value = criterion(logits, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value == 0 and logits.grad.shape == (0, K)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_becomes_float32(criterion, autocast):
    logits, labels = logits_and_labels()
    logits = logits.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = copy.deepcopy(criterion)(logits, labels, STRIDE)
    assert found.dtype == torch.float32
    assert torch.equal(found, criterion(logits.float(), labels, STRIDE))
    found.backward()
    assert logits.grad.isfinite().all()


cases = given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 2**32 - 1),
    num_pixels=st.integers(1, 40),
    share_ignored=st.sampled_from((0.0, 0.3, 0.9)),
    ignore_value=st.sampled_from((IGNORE, 0, -1)),
)
few = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def samples(seed, num_pixels, share_ignored, ignore_value):
    """Logits (M, K), some of them equal, and labels (M,)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_pixels, K, generator=generator, dtype=torch.float64).mul(5).round() / 3
    labels = torch.randint(K, (num_pixels,), generator=generator)
    labels[torch.rand(num_pixels, generator=generator) < share_ignored] = ignore_value
    return logits, labels, generator


def value(name, logits, labels, ignore_value):
    criterion = build(name).double()
    for module in criterion.modules():
        if hasattr(module, "ignore_value"):
            module.ignore_value = ignore_value
    return criterion(logits, labels)


@few
@cases
def test_the_order_of_pixels_does_not_matter(name, seed, num_pixels, share_ignored, ignore_value):
    logits, labels, generator = samples(seed, num_pixels, share_ignored, ignore_value)
    order = torch.randperm(num_pixels, generator=generator)
    found = value(name, logits[order], labels[order], ignore_value)
    torch.testing.assert_close(found, value(name, logits, labels, ignore_value))


@few
@cases
def test_ignored_pixels_may_be_left_out(name, seed, num_pixels, share_ignored, ignore_value):
    assume("mining" not in name)  # its share counts ignored pixels
    logits, labels, _ = samples(seed, num_pixels, share_ignored, ignore_value)
    is_valid = labels != ignore_value
    found = value(name, logits[is_valid], labels[is_valid], ignore_value)
    torch.testing.assert_close(found, value(name, logits, labels, ignore_value))


@pytest.mark.parametrize("name", ["fused focal", "dice", "lovasz"])
def test_the_upsampled_logits_are_nowhere_in_memory(name):
    logits = torch.randn(1, 64, 32, 32, requires_grad=True)
    labels = torch.arange(5).repeat(1, 128, 26)[..., :128]
    saved = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    criterion = build(name)
    with LargestTensor() as largest:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = criterion(logits, labels, 4)
        loss.backward()
    upsampled = 64 * labels.numel()
    assert largest.numbers <= upsampled / 14 and sum(saved.values()) <= upsampled / 4


@pytest.mark.parametrize("name", ["focal", "dice", "lovasz"])
def test_a_classifier_learns_the_rarest_class(name):
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(K), torch.tensor([300, 100, 40, 10, 3]))
    samples = F.one_hot(labels, K) + 0.2 * torch.randn(len(labels), K, generator=generator)
    weight = torch.zeros(K, K, requires_grad=True)
    optimizer, criterion = torch.optim.Adam([weight], lr=0.2), build(name)
    for _ in range(30):
        optimizer.zero_grad()
        criterion(samples @ weight, labels).backward()
        optimizer.step()
    assert ((samples @ weight).argmax(1) == labels)[labels == K - 1].all()


def test_a_weighted_sum_and_its_terms():
    logits, labels = logits_and_labels()
    criteria = {"a": CrossEntropy(IGNORE), "b": Focal(IGNORE)}
    criterion = WeightedSum({"a": (2.0, criteria["a"]), "b": (0.5, criteria["b"])})
    weights = torch.rand(labels.shape)
    for options in ({}, {"pixel_weights": weights}):
        found = criterion.terms(logits, labels, STRIDE, **options)
        a, b = (each(logits, labels, STRIDE, **options) for each in criteria.values())
        assert list(found) == ["a", "b"]
        assert found["a"] == 2 * a and found["b"] == 0.5 * b
        assert criterion(logits, labels, STRIDE, **options) == found["a"] + found["b"]


@pytest.mark.parametrize("name", [name for name in NAMES if "weighted" in name])
def test_pixels_with_a_weight_of_zero_do_not_count(name):
    criterion = build(name)
    criterion.weights = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    logits, labels = logits_and_labels()
    value = criterion(logits, labels.clamp(max=1), STRIDE)  # no pixel of another class
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0 and (gradient == 0).all()


def test_a_training_that_diverges_remains_visible(criterion):
    logits, labels = logits_and_labels()
    assert not criterion(logits * float("nan"), labels, STRIDE).isfinite()


def test_no_host_synchronisation(criterion):
    if isinstance(criterion, Lovasz):
        pytest.skip("it asks once which classes are present")
    # Tensors on the meta device have no values, so any read of a value fails.
    logits, labels = logits_and_labels("meta")
    criterion.to("meta")(logits, labels, STRIDE).backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="host synchronisation needs a GPU")
def test_no_host_synchronisation_on_a_gpu(criterion):
    if isinstance(criterion, Lovasz):
        pytest.skip("it asks once which classes are present")
    logits, labels = logits_and_labels("cuda")
    criterion = criterion.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(logits, labels, STRIDE).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
