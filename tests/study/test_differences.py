import math

import numpy as np
import pytest
from scipy import stats

from sar.study.differences import (
    holm,
    p_value,
    paired_difference,
    pairs_needed,
    student_quantile,
)


def pairs(number, seed=0):
    generator = np.random.default_rng(seed)
    reference = generator.normal(40, 5, number)
    return reference + generator.normal(2, 3, number), reference


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 99])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.9999])
def test_quantiles_of_student(probability, degrees):
    expected = stats.t.ppf(probability, degrees)
    assert student_quantile(probability, degrees) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("number", [2, 3, 6])
def test_differences_are_those_of_a_paired_t_test(number, confidence):
    values, reference = pairs(number)
    found = paired_difference(list(values), list(reference), confidence)
    expected = stats.ttest_rel(values, reference).confidence_interval(confidence)
    np.testing.assert_allclose(found, [(values - reference).mean(), expected.low, expected.high])
    assert found.is_clear == (stats.ttest_rel(values, reference).pvalue < 1 - confidence)


def test_one_pair_has_no_interval():
    found = paired_difference([3.0], [1.0])
    assert found.mean == 2 and math.isinf(found.low) and not found.is_clear
    assert str(found) == "+2.00"


def test_seeds_that_make_a_difference_clear():
    values, reference = pairs(5)
    needed = pairs_needed(list(values), list(reference))
    differences = values - reference
    # Samples of other sizes with the same mean and standard deviation.
    for number, is_clear in ((needed - 1, False), (needed, True)):
        half = stats.t.ppf(0.975, number - 1) * differences.std(ddof=1) / math.sqrt(number)
        assert (half < differences.mean()) == is_clear
    assert pairs_needed([1.0, -1.0], [0.0, 0.0]) == 100
    assert pairs_needed([1.0, 1.0], [0.0, 0.0]) == 2


@pytest.mark.parametrize("number", [2, 3, 6])
def test_p_values_are_those_of_a_paired_t_test(number):
    for seed in range(5):
        values, reference = pairs(number, seed)
        expected = stats.ttest_rel(values, reference).pvalue
        assert p_value(list(values), list(reference)) == pytest.approx(expected, rel=1e-9)
    assert p_value([3.0], [1.0]) == 1
    assert p_value([3.0, 3.0], [1.0, 1.0]) == 0
    assert p_value([1.0, 1.0], [1.0, 1.0]) == 1


def test_holm_rejects_what_its_definition_rejects():
    generator = np.random.default_rng(0)
    for number in (1, 2, 5, 9):
        p_values = generator.uniform(0, 0.1, number)
        corrected = holm(list(p_values))
        # The definition: from the smallest up, until p > level / (number of those not yet seen).
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            for rank, i in enumerate(np.argsort(p_values)):
                if p_values[i] > level / (number - rank):
                    break
                rejected.add(int(i))
            assert {i for i in range(number) if corrected[i] <= level} == rejected
    assert holm([]) == []
    assert holm([0.5, 0.6]) == [1.0, 1.0]
