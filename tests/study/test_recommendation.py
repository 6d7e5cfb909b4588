import numpy as np
import pytest
from scipy import stats

from sar.study.recommendation import judge, not_clearly_below, recommend

PLAIN = [40.0, 41.0, 42.5, 41.2]


def scores(**shifts):
    """Scores of plain, and of methods that differ from it by a list of numbers, one per seed."""
    number = len(next(iter(shifts.values())))
    found = {"plain": dict(enumerate(PLAIN[:number]))}
    for name, shift in shifts.items():
        found[name] = {seed: PLAIN[seed] + value for seed, value in enumerate(shift)}
    return found


def text(**shifts):
    return " ".join(recommend(scores(**shifts), "plain", "mIoU"))


def test_the_interval_is_corrected_for_the_number_of_methods():
    shift = [2.0, 2.4, 3.1, 2.2]
    verdict = judge(scores(A=shift, B=[0.1, 0, 0, 0], C=[1, 0, 1, 0], D=[-1, 0, 0, 0]), "plain")
    assert (verdict.method, verdict.num_seeds, verdict.num_methods) == ("A", 4, 4)
    for found, confidence in ((verdict.difference, 0.95), (verdict.corrected, 1 - 0.05 / 4)):
        expected = stats.ttest_1samp(shift, 0).confidence_interval(confidence)
        np.testing.assert_allclose(found, [np.mean(shift), expected.low, expected.high])


@pytest.mark.parametrize(
    "shift, certainty",
    [
        ([2.0, 2.1, 2.2, 2.0], "high"),
        ([1.0, 2.0, 3.0, 2.2], "medium"),
        ([-1.0, 2.0, 3.0, 0.0], "low"),
        ([2.0, 2.1], "none"),
        ([2.0], "none"),
    ],
)
def test_certainty(shift, certainty):
    others = {name: [0.0] * len(shift) for name in "BCDE"}
    verdict = judge(scores(A=shift, **others), "plain")
    assert verdict.certainty == certainty
    if len(shift) > 2:  # the limits, by their p-values
        p = stats.ttest_1samp(shift, 0).pvalue
        limits = {"high": (0, 0.01), "medium": (0.01, 0.05), "low": (0.05, 1)}
        low, high = limits[certainty]
        assert low < p < high


def test_a_clear_winner_is_recommended_with_its_rivals():
    found = text(A=[2.0, 2.1, 2.2, 2.0], B=[1.9, 2.2, 2.0, 2.0], C=[0.0, 0.1, 0.0, 0.2])
    assert found.startswith("Use **A**: +2.08 [") and "against plain, 4 seeds" in found
    assert "Certainty: high" in found and "corrected for 3 comparisons" in found
    assert "Not clearly worse than A: B." in found
    assert not_clearly_below(scores(A=[2.0, 2.1, 2.2], B=[0.0, 0.1, 0.2]), "A") == []


def test_a_clearly_better_method_comes_before_a_higher_mean():
    found = text(A=[1.0, 1.1, 0.9], B=[-1.0, 2.0, 4.0])
    assert found.startswith("Use **A**: +1.00 [") and "Certainty: high" in found
    assert "Not clearly worse than A: B." in found
    # The other trainings of B failed.
    found = text(A=[1.0, 1.1, 0.9], B=[3.0])
    assert found.startswith("Use **A**: +1.00 [") and "Certainty: high" in found
    found = text(A=[-1.0, -1.2, -0.8], B=[3.0, 5.0])
    assert found.startswith("Keep **plain**: no method with 3 seeds or more has a higher mean")
    # With two seeds, nothing is clear.
    assert text(A=[1.0, 1.01], B=[3.0, 5.0]).startswith("**B** has the highest mean: +4.00")


def test_a_winner_among_many_is_less_certain():
    shift = [1.0, 2.0, 3.0, 2.2]
    found = text(A=shift, B=[0.0] * 4, C=[0.0] * 4, D=[0.0] * 4)
    assert found.startswith("Use **A**") and "Certainty: medium" in found
    assert "corrected for 4 comparisons" in found


def test_an_unclear_winner_is_not_recommended():
    found = text(A=[-1.0, 2.0, 3.0, 0.0], B=[-1.0, 0.0, 0.0, 0.0])
    assert found.startswith("Keep **plain**: no method is clearly better") and "A: +1.00" in found
    assert "Certainty: low" in found
    needed = int(found.split("about ")[1].split()[0])
    spread = np.std([-1.0, 2.0, 3.0, 0.0], ddof=1)
    half = [stats.t.ppf(0.975, n - 1) * spread / n**0.5 for n in (needed - 1, needed)]
    assert half[0] > 1 > half[1]
    assert "more than 99 seeds" in text(A=[-3.0, 3.0, 0.0, 0.1])


def test_nothing_is_better_than_plain():
    found = text(A=[-2.0, -2.1, -2.2], B=[-4.0, -4.0, -4.1])
    assert found.startswith(
        "Keep **plain**: no method with 3 seeds or more has a higher mean mIoU (3 seeds)"
    )
    assert "The closest is A: -2.10" in found and "is below zero" in found
    assert "contains zero" in text(A=[-2.0, 1.0, 0.0])


@pytest.mark.parametrize("number, words", [(1, "one seed"), (2, "Two seeds")])
def test_one_or_two_seeds_show_nothing(number, words):
    found = text(A=[2.0, 2.0][:number])
    assert "Certainty: none" in found and words in found and "Use --seeds 3" in found
    assert "Use **" not in found and "**A** has the highest mean: +2.00" in found
    assert "No method has a higher mean mIoU than **plain**" in text(A=[-1.0, -2.0][:number])


def test_failed_trainings_are_left_out():
    found = scores(A=[2.0, 2.1, 2.2, 2.0], B=[9.0, 9.0, 9.0, 9.0])
    found["B"] = {}
    del found["A"][1], found["plain"][0]
    verdict = judge(found, "plain")
    assert (verdict.method, verdict.num_seeds, verdict.num_methods) == ("A", 2, 1)
    assert verdict.difference.mean == pytest.approx(2.1)
    assert judge({"plain": {0: 1.0}, "A": {}}, "plain") is None
    assert "trainings are missing" in recommend({"plain": {}, "A": {0: 1.0}}, "plain", "mIoU")[0]
