"""Means and majorities of voxels against loops."""

from collections import Counter

import torch

from sar.points.voxels import majority_labels, voxel_means

V, P, K = 7, 60, 4


def points(seed):
    generator = torch.Generator().manual_seed(seed)
    voxel_of = torch.cat([torch.arange(V), torch.randint(V, (P - V,), generator=generator)])
    labels = torch.randint(K, (P,), generator=generator)
    labels[torch.rand(P, generator=generator) < 0.3] = 255
    labels[voxel_of == 2] = 255
    features = torch.randn(P, 3, generator=generator, dtype=torch.float64)
    return features, labels, voxel_of


def test_means():
    features, _, voxel_of = points(0)
    found = voxel_means(features, voxel_of, V)
    for v in range(V):
        torch.testing.assert_close(found[v], features[voxel_of == v].mean(dim=0))


def test_majorities():
    ties = 0
    for seed in range(20):
        _, labels, voxel_of = points(seed)
        found = majority_labels(labels, voxel_of, V, 255).tolist()
        for v in range(V):
            votes = Counter(labels[(voxel_of == v) & (labels != 255)].tolist())
            most = max(votes.values(), default=0)
            winners = sorted(k for k, number in votes.items() if number == most)
            ties += len(winners) > 1
            assert found[v] == (winners[0] if winners else 255)
    assert ties


def test_no_label_at_all():
    _, labels, voxel_of = points(0)
    assert majority_labels(torch.full_like(labels, 255), voxel_of, V, 255).tolist() == [255] * V
