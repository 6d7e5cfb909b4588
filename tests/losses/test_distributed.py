"""The losses of several processes against one process with the whole batch, in float64."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sar.errors import InputError
from sar.losses import (
    CrossEntropy,
    Dice,
    Focal,
    HardPixelMining,
    LogitAdjustment,
    Lovasz,
    Seesaw,
)
from sar.modeling.head_loss import use_all_processes

from ..distributed import run_processes

K, IGNORE = 4, 255
IMAGES = 6  # for 1, 2 and 3 processes


class OwnCrossEntropy(nn.Module):
    """A third-party head on logits, with its own loss."""

    ignore_value = IGNORE

    def forward(self, features, targets=None):
        return None, {"loss": F.cross_entropy(features, targets, ignore_index=IGNORE)}


class OwnMaskedMean(OwnCrossEntropy):
    """A head whose value and gradient are NaN if no pixel is valid."""

    def forward(self, features, targets=None):
        mask = (targets != IGNORE).to(features.dtype)
        losses = F.cross_entropy(features, targets, ignore_index=IGNORE, reduction="none")
        return None, {"loss": (losses * mask).sum() / mask.sum()}


class Corrected(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head
        use_all_processes(head)

    def forward(self, logits, targets):
        return self.head(logits, targets=targets)[1]["loss"]


CRITERIA = {
    "cross_entropy": lambda: CrossEntropy(IGNORE),
    "weighted cross_entropy": lambda: CrossEntropy(IGNORE, torch.tensor([0.1, 3.0, 1.0, 7.0])),
    "fused cross_entropy": lambda: CrossEntropy(IGNORE, fused=True),
    "fused weighted cross_entropy": lambda: CrossEntropy(
        IGNORE, torch.tensor([0.1, 3.0, 1.0, 7.0]), fused=True
    ),
    "logit_adjustment": lambda: LogitAdjustment(torch.tensor([500, 30, 2, 0]), IGNORE),
    "fused weighted focal": lambda: Focal(
        IGNORE, 2.0, torch.tensor([0.1, 3.0, 1.0, 7.0]), fused=True
    ),
    "seesaw": lambda: Seesaw(K, IGNORE),
    "dice": lambda: Dice(IGNORE),
    "a head's own": lambda: Corrected(OwnCrossEntropy()),
    "a head's own masked mean": lambda: Corrected(OwnMaskedMean()),
}


class Network(nn.Module):
    def __init__(self, criterion):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, K, 1).double()
        self.criterion = criterion.double()

    def forward(self, images, labels):
        return self.criterion(self.layer(images), labels)


def batches():
    """Name -> images (6, 3, 5, 7) and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(K - 1, (IMAGES, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = IGNORE
    labels[0, 0] = K - 1  # only one process sees this class
    empty_process = labels.clone()
    empty_process[3:] = IGNORE
    single_pixel = torch.full_like(labels, IGNORE)
    single_pixel[0, 2, 3] = 1
    return {
        "all": (images, labels),
        "a process with no valid pixel": (images, empty_process),
        "fewer valid pixels than processes": (images, single_pixel),
        "no valid pixel at all": (images, torch.full_like(labels, IGNORE)),
    }


# Each process takes its own images.
OWN_IMAGES = {"lovasz": lambda: Lovasz(IGNORE)}


def losses_and_gradients(part, criteria, wrap=lambda network: network):
    results = {}
    for criterion, build in criteria.items():
        network = wrap(Network(build()))
        for batch, (images, labels) in batches().items():
            network.zero_grad()
            loss = network(images[part], labels[part])
            loss.backward()
            gradients = [p.grad.clone() for p in network.parameters()]
            results[criterion, batch] = (loss.detach(), gradients)
        if criterion == "seesaw":
            seen = network.state_dict(keep_vars=False)
            results["seen"] = next(v for k, v in seen.items() if k.endswith("pixels_seen"))
    return results


def part_of(rank, num_processes):
    size = IMAGES // num_processes
    return slice(rank * size, (rank + 1) * size)


def train_on_part(rank, folder):
    part = part_of(rank, dist.get_world_size())
    results = losses_and_gradients(part, CRITERIA | OWN_IMAGES, DistributedDataParallel)
    torch.save(results, folder / f"{rank}.pth")


def means_over_processes_with_a_valid_pixel(num_processes):
    """Losses and gradients of OWN_IMAGES, from the images of each process alone."""
    parts = [part_of(rank, num_processes) for rank in range(num_processes)]
    results = [losses_and_gradients(part, OWN_IMAGES) for part in parts]
    means = {}
    for case in results[0]:
        _, labels = batches()[case[1]]
        weights = torch.tensor([(labels[part] != IGNORE).any().double() for part in parts])
        weights /= weights.sum().clamp(min=1)
        loss = sum(w * result[case][0] for w, result in zip(weights, results, strict=True))
        gradients = [
            sum(w * gradient for w, gradient in zip(weights, of_parts, strict=True))
            for of_parts in zip(*(result[case][1] for result in results), strict=True)
        ]
        means[case] = (loss, gradients)
    return means


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_losses_of_several_processes_are_those_of_one(tmp_path, num_processes):
    run_processes(train_on_part, num_processes, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pth") for rank in range(num_processes)]
    wanted = losses_and_gradients(slice(None), CRITERIA)
    seen = wanted.pop("seen")
    wanted |= means_over_processes_with_a_valid_pixel(num_processes)
    assert all(torch.equal(result.pop("seen"), seen) for result in results)
    for case, (loss, gradients) in wanted.items():
        assert (loss == 0) == (case[1] == "no valid pixel at all")
        mean_loss = torch.stack([result[case][0] for result in results]).mean()
        torch.testing.assert_close(mean_loss, loss, rtol=1e-6, atol=0, msg=str(case))
        for result in results:
            if case[0] == "dice":  # every process has the loss of the whole batch
                torch.testing.assert_close(result[case][0], loss, msg=str(case))
            for found, gradient in zip(result[case][1], gradients, strict=True):
                torch.testing.assert_close(found, gradient, rtol=1e-6, atol=1e-12, msg=str(case))


def test_one_process_is_the_plain_loss_bit_for_bit():
    for images, labels in batches().values():
        if (labels == IGNORE).all():
            continue
        network = Network(Corrected(OwnCrossEntropy()))
        logits = network.layer(images)
        assert torch.equal(
            network.criterion(logits, labels), F.cross_entropy(logits, labels, ignore_index=IGNORE)
        )
        weights = torch.tensor([0.1, 3.0, 1.0, 7.0]).double()
        assert torch.equal(
            CrossEntropy(IGNORE, weights)(logits, labels),
            F.cross_entropy(logits, labels, weights, ignore_index=IGNORE),
        )


def test_hooks_see_the_labels_as_they_are():
    head = OwnMaskedMean()
    use_all_processes(head)
    labels = torch.full((2, 4, 4), IGNORE)
    seen = []
    head.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    _, losses = head(torch.zeros(2, K, 4, 4, requires_grad=True), labels)
    assert losses["loss"] == 0
    assert seen[0] is labels and (labels == IGNORE).all()
    assert isinstance(head, OwnMaskedMean)


def test_a_head_may_take_the_labels_by_another_name():
    class Head(OwnMaskedMean):
        def forward(self, features, extra=None, *, truth=None):
            return super().forward(features, truth)

    head = Head()
    use_all_processes(head, "truth")
    features, labels = torch.randn(2, K, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    _, losses = head(features, None, truth=labels)
    torch.testing.assert_close(losses["loss"], F.cross_entropy(features, labels))
    with pytest.raises(InputError, match='Head was called without "truth" in training'):
        head(features, labels)


def test_mining_takes_the_hardest_of_each_process():
    logits = torch.tensor([[4.0, 0.0, -1.0, -7.0], [0.0, 0.0, 0.0, 0.0]]).T[None, :, None]
    labels = torch.tensor([[[0, IGNORE]]])
    value = HardPixelMining(IGNORE, top_k=0.5)(logits, labels)
    torch.testing.assert_close(value, F.cross_entropy(logits[..., :1], labels[..., :1]))
