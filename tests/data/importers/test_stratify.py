import numpy as np
import pytest

from sar.data.importers.stratify import missing_classes, stratify


def divide(shows, ratios, seed=0, sizes=None):
    shows = np.asarray(shows, np.int64)
    sizes = np.ones(len(shows), np.int64) if sizes is None else sizes
    return stratify(shows, sizes, ratios, seed)


def long_tail(num_images=400, num_classes=12, seed=0):
    """Images of classes whose frequency halves from class to class; the rarest is in 3 images."""
    rng = np.random.default_rng(seed)
    shows = rng.random((num_images, num_classes)) < 0.9 * 0.55 ** np.arange(num_classes)
    for k in range(num_classes):
        shows[rng.permutation(num_images)[:3], k] = True
    return shows


@pytest.mark.parametrize("ratios", [(80, 20), (70, 15, 15), (1, 1, 1)])
def test_each_class_is_in_each_split_in_its_share(ratios):
    shows = long_tail()
    chosen = divide(shows, ratios)
    shares = np.array(ratios) / sum(ratios)
    for split, share in enumerate(shares):
        assert abs((chosen == split).sum() - share * len(shows)) <= 4
        found = shows[chosen == split].sum(axis=0)
        assert (found >= 1).all()
        expected = share * shows.sum(axis=0)
        assert (np.abs(found - expected) <= 2 + 0.05 * expected).all()


def test_a_random_division_would_lose_rare_classes():
    shows = long_tail()
    lost = 0
    for seed in range(20):
        random = np.random.default_rng(seed).random(len(shows)) < 0.15
        lost += (~shows[random].any(axis=0)).any()
    assert lost > 15  # so the test above can fail


@pytest.mark.parametrize("number, ratios", [(2, (80, 20)), (3, (80, 10, 10)), (4, (96, 2, 2))])
def test_as_many_images_as_splits_are_enough(number, ratios):
    shows = np.zeros((60, 2), bool)
    shows[:, 0] = True
    shows[:number, 1] = True
    chosen = divide(shows, ratios)
    assert set(chosen[:number].tolist()) == set(range(len(ratios)))


def test_two_rare_classes_that_share_images():
    # Each class is in two images: 0 and 1, 2 and 3, 0 and 2.
    shows = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]])
    for seed in range(20):
        assert not missing_classes(shows, divide(shows, (1, 1), seed), 2).any()


def test_the_seed_decides_and_nothing_else():
    shows = long_tail(100)
    first = divide(shows, (80, 20), seed=3)
    np.random.seed(5)  # noqa: NPY002
    np.testing.assert_array_equal(divide(shows, (80, 20), seed=3), first)
    assert (divide(shows, (80, 20), seed=4) != first).any()


def test_groups_count_with_their_size():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 30, 50)
    counts = np.stack([sizes, rng.integers(0, sizes + 1)], axis=1)
    chosen = stratify(counts, sizes, (75, 25), 0)
    assert abs(sizes[chosen == 0].sum() / sizes.sum() - 0.75) < 0.05
    assert abs(counts[chosen == 0, 1].sum() / counts[:, 1].sum() - 0.75) < 0.1


def test_edges():
    assert divide(np.zeros((5, 0)), (80, 20)).tolist().count(0) == 4
    assert divide(np.ones((1, 3)), (80, 20)).tolist() == [0]
    assert divide(np.ones((7, 1)), (1,)).tolist() == [0] * 7
    missing = missing_classes(np.array([[1, 0, 0], [1, 1, 0]]), np.array([0, 1]), 2)
    assert missing.tolist() == [[False, True, False], [False, False, False]]
