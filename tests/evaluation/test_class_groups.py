import math

import pytest

from sar.errors import InputError
from sar.evaluation.class_groups import class_groups, describe_ties


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
    groups = class_groups(range(1, num_classes + 1), ties_by=[0] * num_classes)
    assert tuple(len(groups[name]) for name in ("f", "c", "r")) == sizes


def test_each_class_in_one_group_and_never_none_rare():
    for num_classes in range(2, 200):
        groups = class_groups(range(1, num_classes + 1), ties_by=[0] * num_classes)
        # The frequencies ascend, so the groups, most frequent first, count down all class ids.
        assert groups["f"] + groups["c"] + groups["r"] == list(range(num_classes))[::-1]
        assert groups["f"] and groups["r"]
        assert abs(len(groups["f"]) - 0.6 * num_classes) <= 0.5
        assert abs(len(groups["r"]) - 0.2 * num_classes) <= 0.6


def test_sorted_by_frequency_then_by_the_other_count_and_then_by_class_id():
    counts = [5, 0, 7.5, 5, 0, 100, 5, 1, 0, 2]
    groups = class_groups(counts, ties_by=[0] * 10)
    assert groups == {"f": [5, 2, 0, 3, 6, 9], "c": [7, 1], "r": [4, 8]}
    groups = class_groups(counts, ties_by=[1, 3, 0, 9, 8, 0, 5, 0, 3, 0])
    assert groups == {"f": [5, 2, 3, 6, 0, 9], "c": [7, 4], "r": [1, 8]}


def test_the_order_of_the_classes_decides_nothing_that_pixels_decide():
    """As on road scenes, where most classes are in every image."""
    images, pixels = [10, 10, 10, 10, 10], [3, 900, 50, 7000, 20]
    expected = {"f": [3, 1, 2], "c": [4], "r": [0]}
    assert class_groups(images, pixels) == expected
    order = [4, 2, 0, 1, 3]
    groups = class_groups(images, [pixels[i] for i in order])
    assert {name: [order[i] for i in ids] for name, ids in groups.items()} == expected


@pytest.mark.parametrize(
    "images, expected",
    [
        ([9, 8, 7, 6, 5], None),
        ([9, 9, 7, 6, 5], None),  # within a group
        ([9, 8, 7, 7, 5], "pixels, then by class id: c, d (7 images each)."),
        ([9, 8, 7, 5, 5], "class id: d, e (5 images each)."),
        ([9, 8, 7, 7, 7], "class id: c, d, e (7 images each)."),
        ([9, 8, 8, 8, 8], "class id: b, c, d, e (8 images each)."),
    ],
)
def test_ties_that_decide_a_group_are_named_in_one_line(images, expected):
    found = describe_ties(images, [5, 4, 3, 2, 1], "abcde")
    assert (found is None) if expected is None else found.endswith(expected)
    if expected:
        assert found.startswith("Equal numbers of images at the border of two groups")


def test_ties_at_both_borders():
    found = describe_ties([9, 9, 9, 8, 7, 6, 5, 5, 4, 4], range(10, 0, -1), "abcdefghij")
    assert found is None
    found = describe_ties([9, 9, 9, 8, 7, 6, 6, 5, 5, 4], range(10, 0, -1), "abc\x1befghij")
    assert found.endswith(r"f, g (6 images each); h, i (5 images each).")


def test_names_of_ties_are_printable():
    assert r"\x1b[2J" in describe_ties([1, 1], [2, 3], ["\x1b[2J", "b"])


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf])
def test_bad_count_names_the_class(bad):
    with pytest.raises(InputError, match=r"class 2 is .*check_dataset"):
        class_groups([3, 4, bad, 5], ties_by=[1, 1, 1, 1])


@pytest.mark.parametrize("counts", [[0, 0, 0], []])
def test_nothing_seen_in_training(counts):
    with pytest.raises(InputError, match="seen in training"):
        class_groups(counts, ties_by=counts)
