"""The geometry of features by its definitions, from all features at once."""

import numpy as np
import pytest

from sar.evaluation.geometry import GEOMETRY_METRICS


def direct(embeddings, labels, weight):
    """The definitions, from all features at once: embeddings (M, C), labels (M,), weight (K, C)."""
    embeddings, weight = embeddings.double().numpy(), weight.double().numpy()
    labels = labels.numpy()
    ids = sorted(set(labels.tolist()) - {255})
    features = [embeddings[labels == i] for i in ids]
    means = [feature.mean(0) for feature in features]
    mean = np.mean(means, axis=0)
    k = len(ids)
    deviations = np.concatenate([f - m for f, m in zip(features, means, strict=True)])
    within = np.mean([np.outer(d, d) for d in deviations], axis=0)
    between = np.mean([np.outer(m - mean, m - mean) for m in means], axis=0)
    centred = np.stack([m - mean for m in means])
    norms = [np.linalg.norm(m - mean) for m in means]
    cosines = np.array(
        [
            np.dot(centred[i], centred[j]) / (norms[i] * norms[j])
            for i in range(k)
            for j in range(k)
            if i != j
        ]
    )
    variances = [
        np.mean(np.sum((f - m) ** 2, axis=1)) for f, m in zip(features, means, strict=True)
    ]
    weight = weight[ids]
    return {
        "NC1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / k,
        "NC1_trace_ratio": np.mean(variances) / np.trace(between),
        "NC2_equinorm": np.std(norms) / np.mean(norms),
        "NC2_equiangularity": np.std(cosines),
        "NC2_maximal_angle": np.mean(np.abs(cosines + 1 / (k - 1))),
        "NC3": np.linalg.norm(weight / np.linalg.norm(weight) - centred / np.linalg.norm(centred)),
    }


def assert_close(found, expected, rel=1e-9):
    assert list(found) == list(expected) == list(GEOMETRY_METRICS)
    for name, value in expected.items():
        assert value > 0.01  # no comparison of nothing with nothing
        assert found[name] == pytest.approx(value, rel=rel), name
