"""Properties that all losses share."""

import copy

import pytest
import torch
import torch.nn.functional as F

from sar.losses import CrossEntropy, HardPixelMining, LogitAdjustment, Seesaw

K, IGNORE, STRIDE = 5, 255, 4
PIXELS = torch.tensor((70_000, 900, 29_000, 0, 100))
WEIGHTS = torch.tensor([0.2, 1.5, 0.7, 3.0, 9.0])
LOSSES = {
    "cross_entropy": lambda fused: CrossEntropy(IGNORE, fused=fused),
    "weighted cross_entropy": lambda fused: CrossEntropy(IGNORE, WEIGHTS, fused=fused),
    "hard_pixel_mining": lambda fused: HardPixelMining(IGNORE, 0.2, fused=fused),
    "weighted hard_pixel_mining": lambda fused: HardPixelMining(IGNORE, 0.2, WEIGHTS, fused=fused),
    "logit_adjustment": lambda fused: LogitAdjustment(PIXELS, IGNORE, fused=fused),
}


@pytest.fixture(params=[*LOSSES, *(f"fused {name}" for name in LOSSES), "seesaw"])
def criterion(request):
    if request.param == "seesaw":
        return Seesaw(K, IGNORE)
    return LOSSES[request.param.removeprefix("fused ")](request.param.startswith("fused"))


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


def test_a_training_that_diverges_remains_visible(criterion):
    logits, labels = logits_and_labels()
    assert not criterion(logits * float("nan"), labels, STRIDE).isfinite()


def test_no_host_synchronisation(criterion):
    # Tensors on the meta device have no values, so any read of a value fails.
    logits, labels = logits_and_labels("meta")
    criterion.to("meta")(logits, labels, STRIDE).backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="host synchronisation needs a GPU")
def test_no_host_synchronisation_on_a_gpu(criterion):
    logits, labels = logits_and_labels("cuda")
    criterion = criterion.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(logits, labels, STRIDE).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
