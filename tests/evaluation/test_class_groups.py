import math

import pytest

from sar.errors import InputError
from sar.evaluation.class_groups import class_groups


@pytest.mark.parametrize(
    ("num_classes", "sizes"),
    [
        (1, (1, 0, 0)),
        (2, (1, 0, 1)),
        (3, (2, 0, 1)),
        (4, (2, 1, 1)),
        (10, (6, 2, 2)),
        (11, (7, 2, 2)),
        (19, (11, 4, 4)),
        (150, (90, 30, 30)),
    ],
)
def test_sizes(num_classes, sizes):
    groups = class_groups(range(1, num_classes + 1))
    assert tuple(len(groups[name]) for name in ("f", "c", "r")) == sizes


def test_each_class_in_one_group_and_never_none_rare():
    for num_classes in range(2, 200):
        groups = class_groups(range(1, num_classes + 1))
        # The frequencies ascend, so the groups, most frequent first, count down all class ids.
        assert groups["f"] + groups["c"] + groups["r"] == list(range(num_classes))[::-1]
        assert groups["f"] and groups["r"]
        assert abs(len(groups["f"]) - 0.6 * num_classes) <= 0.5
        assert abs(len(groups["r"]) - 0.2 * num_classes) <= 0.6


def test_sorted_by_frequency_and_ties_by_class_id():
    groups = class_groups([5, 0, 7.5, 5, 0, 100, 5, 1, 0, 2])
    assert groups == {"f": [5, 2, 0, 3, 6, 9], "c": [7, 1], "r": [4, 8]}


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf])
def test_bad_count_names_the_class(bad):
    with pytest.raises(InputError, match=r"class 2 is .*check_dataset"):
        class_groups([3, 4, bad, 5])


@pytest.mark.parametrize("counts", [[0, 0, 0], []])
def test_nothing_seen_in_training(counts):
    with pytest.raises(InputError, match="seen in training"):
        class_groups(counts)
