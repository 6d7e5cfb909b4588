"""Samples (M, C), of which each process has another number: as one process with all of them."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sar.regularizers import CenterCollapseRegularizer, SemanticAnchorRegularizer

from ..distributed import run_processes

K, C, M = 4, 8, 7
SPLITS = {"5 and 2": 5, "all and none": 7}


class Network(nn.Module):
    """A trained layer, and both regularizers on its output, with SAR's gate always open."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, C).double()
        self.classifier = nn.Linear(C, K).double()
        self.sar = SemanticAnchorRegularizer(K, C, gate_confidence=0).double()
        self.ceco = CenterCollapseRegularizer(K, C, projection_dim=16, dropout=0.0).double()

    def forward(self, samples, labels):
        embeddings = self.layer(samples)
        losses = self.sar(embeddings, labels, self.classifier)
        return {**losses, **self.ceco(embeddings, labels, self.classifier)}


def samples():
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 1, 3, 3, 0, 1, 0])  # class 2 is absent
    return torch.randn(M, 3, generator=generator, dtype=torch.float64), labels


def results(network, part):
    vectors, labels = samples()
    losses = network(vectors[part], labels[part])
    sum(losses.values()).backward()
    module = getattr(network, "module", network)
    return (
        {name: loss.detach() for name, loss in losses.items()},
        {name: p.grad for name, p in module.layer.named_parameters()},
    )


def train_on_a_part(rank, folder, first):
    part = slice(0, first) if rank == 0 else slice(first, M)
    torch.save(results(DistributedDataParallel(Network()), part), folder / f"{rank}.pth")


@pytest.mark.parametrize("first", SPLITS.values(), ids=SPLITS)
def test_two_processes_equal_one_with_all_samples(first, tmp_path):
    losses, gradients = results(Network(), slice(0, M))
    run_processes(train_on_a_part, 2, tmp_path, first)
    found = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    for name, loss in losses.items():
        mean = (found[0][0][name] + found[1][0][name]) / 2
        torch.testing.assert_close(mean, loss, rtol=1e-12, atol=1e-14, msg=name)
    for name, gradient in gradients.items():
        assert gradient.any()
        for _, of_rank in found:
            torch.testing.assert_close(of_rank[name], gradient, rtol=1e-9, atol=1e-14, msg=name)
