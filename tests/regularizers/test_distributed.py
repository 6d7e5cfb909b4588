"""The pull loss of SAR over processes, against one process with the whole batch."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sar.regularizers import SemanticAnchorRegularizer

from ..distributed import run_processes

K, C = 4, 8
IMAGES = 6  # for 1, 2 and 3 processes


class Network(nn.Module):
    """A trained layer, and SAR on its output with the gate always open."""

    def __init__(self, over):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, C, 1).double()
        self.classifier = nn.Conv2d(C, K, 1).double()
        self.regularizer = SemanticAnchorRegularizer(
            K, C, gate_confidence=0, pull_over=over
        ).double()

    def forward(self, images, labels):
        return self.regularizer(self.layer(images), labels, self.classifier)["loss_sar_pull"]


def cases():
    """Name -> images (6, 3, 5, 7) and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(K, (IMAGES, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
    empty_process = labels.clone()
    empty_process[3:] = 255
    single_pixel = torch.full_like(labels, 255)
    single_pixel[0, 2, 3] = 1
    return {
        "all": (images, labels),
        "a process with no valid pixel": (images, empty_process),
        "fewer valid pixels than processes": (images, single_pixel),
        "no valid pixel at all": (images, torch.full_like(labels, 255)),
    }


def losses_and_gradients(network, part):
    results = {}
    for name, (images, labels) in cases().items():
        network.zero_grad()
        loss = network(images[part], labels[part])
        loss.backward()
        reached = [p.grad.clone() for key, p in network.named_parameters() if "layer." in key]
        results[name] = (loss.detach(), reached)
    return results


def train_on_part(rank, folder, over):
    size = IMAGES // dist.get_world_size()
    # The pull reaches the first layer only.
    network = DistributedDataParallel(Network(over), find_unused_parameters=True)
    results = losses_and_gradients(network, slice(rank * size, (rank + 1) * size))
    torch.save(results, folder / f"{rank}.pth")


@pytest.mark.parametrize("over", ["pixels", "classes"])
@pytest.mark.parametrize("num_processes", [2, 3])
def test_pull_of_several_processes_equals_that_of_one(tmp_path, num_processes, over):
    run_processes(train_on_part, num_processes, tmp_path, over)
    results = [torch.load(tmp_path / f"{rank}.pth") for rank in range(num_processes)]
    wanted = losses_and_gradients(Network(over), slice(None))
    for name, (loss, gradients) in wanted.items():
        assert (loss == 0) == (name == "no valid pixel at all")
        mean_loss = torch.stack([result[name][0] for result in results]).mean()
        torch.testing.assert_close(mean_loss, loss, rtol=1e-12, atol=0, msg=name)
        for result in results:
            for found, gradient in zip(result[name][1], gradients, strict=True):
                torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-16, msg=name)
