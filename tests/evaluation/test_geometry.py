import math

import sar  # noqa: F401  # isort: skip  (before detectron2)
import pytest
import torch
import torch.distributed as dist

from sar.evaluation import FeatureGeometry
from sar.evaluation.geometry import GEOMETRY_METRICS

from ..distributed import run_processes
from ..geometry import assert_close, direct

K, C = 6, 9


def sample(*, seed=0, num_images=3, size=(7, 11), num_classes=K, absent=(), channels=C):
    """Embeddings (N, C, H, W) about class centres far from the origin, and labels (N, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(num_classes, channels, generator=generator) + 5
    present = torch.tensor([i for i in range(num_classes) if i not in absent])
    # The first class is far more frequent than the last.
    shares = 0.5 ** torch.arange(len(present))
    labels = present[
        torch.multinomial(shares, num_images * size[0] * size[1], True, generator=generator)
    ]
    labels = labels.view(num_images, *size)
    noise = torch.randn(num_images, *size, channels, generator=generator)
    embeddings = (centres[labels] + noise * (1 + labels[..., None])).permute(0, 3, 1, 2)
    ignored = torch.rand(labels.shape, generator=generator) < 0.2
    weight = centres - centres.mean(0) + torch.randn(centres.shape, generator=generator)
    return embeddings, labels.masked_fill(ignored, 255), weight


def flat(embeddings, labels):
    return embeddings.flatten(2).transpose(1, 2).reshape(-1, embeddings.shape[1]), labels.flatten()


def measure(embeddings, labels, weight, num_classes=K):
    geometry = FeatureGeometry(num_classes, embeddings.shape[1])
    for embedding, label in zip(embeddings, labels, strict=True):
        geometry.update(embedding[None], label[None])
    return geometry.compute(weight)


@pytest.mark.parametrize("channels", [C, 3])  # more than K - 1, and fewer
@pytest.mark.parametrize("absent", [(), (0,), (2, 5)])
def test_equals_the_direct_computation(channels, absent):
    embeddings, labels, weight = sample(channels=channels, absent=absent)
    expected = direct(*flat(embeddings, labels), weight)
    assert_close(measure(embeddings, labels, weight), expected)


def test_many_classes_and_more_embeddings_than_are_summed_at_a_time():
    embeddings, labels, weight = sample(num_images=1, size=(150, 150), num_classes=12, channels=20)
    expected = direct(*flat(embeddings, labels), weight)
    assert_close(measure(embeddings, labels, weight, num_classes=12), expected)


def test_samples_points_and_maps_are_the_same():
    embeddings, labels, weight = sample()
    expected = measure(embeddings, labels, weight)
    for shape in ((), (1,)):
        geometry = FeatureGeometry(K, C)
        samples, ids = flat(embeddings, labels)
        geometry.update(samples.reshape(*samples.shape, *shape), ids.reshape(*ids.shape, *shape))
        assert_close(geometry.compute(weight), expected)
    geometry = FeatureGeometry(K, C)
    geometry.update(embeddings.flatten(2), labels.flatten(1))
    assert_close(geometry.compute(weight[:, :, None, None]), expected)


def test_labels_are_brought_to_the_embeddings_size_as_in_training():
    embeddings, labels, weight = sample()
    larger = torch.full((*labels.shape[:1], 4 * 7, 4 * 11), 255)
    larger[:, ::4, ::4] = labels
    assert_close(measure(embeddings, larger, weight), measure(embeddings, labels, weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    embeddings, labels, weight = sample()
    embeddings = embeddings.to(dtype)
    expected = direct(*flat(embeddings, labels), weight)
    assert_close(measure(embeddings, labels, weight), expected)


def test_centres_far_from_the_origin_cost_no_digits():
    embeddings, labels, weight = sample()
    embeddings = embeddings.double() + 1e4
    expected = direct(*flat(embeddings, labels), weight)
    assert_close(measure(embeddings, labels, weight), expected, rel=1e-6)


def simplex(num_classes, channels):
    """Rows (K, C) of a simplex equiangular tight frame, turned by a random rotation."""
    rotation, _ = torch.linalg.qr(torch.randn(channels, num_classes, dtype=torch.float64))
    return (torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes) @ rotation.T


def test_full_collapse_is_zero():
    torch.manual_seed(0)
    centres = simplex(K, C)
    labels = torch.tensor([0] * 50 + [1] * 9 + [2, 3, 3, 4, 4, 5])  # of very different sizes
    features = 2.5 * centres[labels] + torch.randn(C).double()
    geometry = FeatureGeometry(K, C)
    geometry.update(features, labels)
    assert all(value < 1e-12 for value in geometry.compute(7 * centres).values())
    turned = geometry.compute(-centres)
    assert turned.pop("NC3") == pytest.approx(2)
    assert all(value < 1e-12 for value in turned.values())


def test_each_number_sees_its_own_departure_from_collapse():
    torch.manual_seed(0)
    centres = simplex(4, C)
    labels = torch.arange(4).repeat_interleave(2)

    def departures(features, weight=centres):
        geometry = FeatureGeometry(4, C)
        geometry.update(features, labels)
        return {name for name, value in geometry.compute(weight).items() if value > 1e-6}

    spread = torch.randn(4, 1, C).double() * torch.tensor([1, -1])[:, None]  # about the centres
    assert departures(centres[labels] + spread.flatten(0, 1)) == {"NC1", "NC1_trace_ratio"}
    assert departures(centres[labels], centres.roll(1, 0)) == {"NC3"}
    # A square: all norms are equal, the angles are not.
    square = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).double()
    square = torch.nn.functional.pad(square, (0, C - 2))
    angles = {"NC2_equiangularity", "NC2_maximal_angle"}
    assert departures(square[labels], square) == angles
    # Centres on a line have cosines of 1 and -1; with two of them the one angle is the largest.
    geometry = FeatureGeometry(2, 1)
    geometry.update(torch.tensor([[1.0], [4.0]]), torch.tensor([0, 1]))
    assert max(geometry.compute(torch.tensor([[-1.0], [1.0]])).values()) < 1e-12


def test_what_is_ignored_may_be_anything():
    embeddings, labels, weight = sample()
    expected = measure(embeddings, labels, weight)
    anything = embeddings.masked_fill(labels[:, None] == 255, math.nan)
    assert_close(measure(anything, labels, weight), expected)


def test_another_ignore_value():
    embeddings, labels, weight = sample()
    geometry = FeatureGeometry(K, C, ignore_value=65535)
    geometry.update(embeddings, labels.masked_fill(labels == 255, 65535))
    assert_close(geometry.compute(weight), measure(embeddings, labels, weight))


def test_absent_classes_are_said():
    embeddings, labels, _ = sample(absent=(1, 4))
    geometry = FeatureGeometry(K, C)
    assert geometry.absent_classes() == list(range(K))
    geometry.update(embeddings, labels)
    assert geometry.absent_classes() == [1, 4]


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (torch.randn(4, 3), [255] * 4),
        (torch.randn(4, 3), [1, 1, 255, 1]),
        (torch.full((4, 3), 0.1), [0, 1, 0, 0]),
        (torch.zeros(4, 3), [0, 1, 0, 1]),
        (torch.tensor([[math.inf], [0], [0], [1]]), [0, 0, 1, 1]),
        (torch.tensor([[math.nan], [0], [0], [1]]), [0, 0, 1, 1]),
    ],
    ids=["no class", "one class", "one centre", "dead", "infinite", "nan"],
)
def test_no_geometry_is_nan(features, labels):
    geometry = FeatureGeometry(2, features.shape[1])
    geometry.update(features, torch.tensor(labels))
    found = geometry.compute(torch.randn(2, features.shape[1]))
    assert list(found) == list(GEOMETRY_METRICS)
    assert all(math.isnan(value) for value in found.values())


def test_labels_that_do_not_go_with_the_embeddings():
    with pytest.raises(ValueError, match="do not go with"):
        FeatureGeometry(K, C).update(torch.randn(2, C, 5), torch.zeros(3, 5))


def test_update_never_waits_for_the_device():
    # Tensors without data, which nobody can wait for.
    geometry = FeatureGeometry(K, C)
    embeddings = torch.empty(2, C, 200, 100, device="meta")
    geometry.update(embeddings, torch.empty(2, 800, 400, device="meta", dtype=torch.int64))
    with pytest.raises((RuntimeError, NotImplementedError)):
        geometry.absent_classes()


def test_no_features_are_kept():
    geometry = FeatureGeometry(K, C)
    for seed in range(3):
        geometry.update(*sample(seed=seed)[:2])
        tensors = [value for value in vars(geometry).values() if isinstance(value, torch.Tensor)]
        assert [tensor.untyped_storage().nbytes() for tensor in tensors] == [
            8 * (K * (C + 2) + C * C)
        ]


# Several processes


def measure_shares(rank, folder, cases):
    """Measures as many images as each of the cases says, which the processes share."""
    for num_images in cases:
        embeddings, labels, weight = sample(num_images=num_images)
        geometry = FeatureGeometry(K, C)
        for i in range(rank, num_images, dist.get_world_size()):
            geometry.update(embeddings[i : i + 1], labels[i : i + 1])
        own = repr(geometry.compute(weight))  # repr: NaN without an image
        total = geometry.reduce().compute(weight)
        assert repr(geometry.compute(weight)) == own
        torch.save(total, folder / f"{num_images}_{rank}")


# Numbers of images: shares that are equal, unequal, and none at all.
@pytest.mark.parametrize("num_processes, cases", [(2, (1, 6)), (3, (2, 7))])
def test_several_processes_give_the_same_as_one(tmp_path, num_processes, cases):
    run_processes(measure_shares, num_processes, tmp_path, cases)
    for num_images in cases:
        embeddings, labels, weight = sample(num_images=num_images)
        alone = measure(embeddings, labels, weight)
        assert_close(alone, direct(*flat(embeddings, labels), weight))
        for rank in range(num_processes):
            assert_close(torch.load(tmp_path / f"{num_images}_{rank}"), alone)


def test_reduce_of_one_process_is_itself():
    embeddings, labels, weight = sample()
    geometry = FeatureGeometry(K, C)
    geometry.update(embeddings, labels)
    assert geometry.reduce().compute(weight) == geometry.compute(weight)
