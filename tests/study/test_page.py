"""The page of a study."""

import numpy as np
from scipy import stats

from sar.study.page import _column_of_differences, _loss_of_head


def test_the_loss_of_the_head_may_have_several_terms():
    others = {"iteration": [1.0, 2.0], "loss_sar_pull": [3.0, 3.0], "loss_sem_seg_aux": [5.0, 5.0]}
    assert _loss_of_head(others | {"loss_sem_seg": [2.0, 1.0]}) == [2.0, 1.0]
    terms = {"loss_sem_seg_cross_entropy": [2.0, 1.0], "loss_sem_seg_dice": [0.5, 0.25]}
    assert _loss_of_head(others | terms) == [2.5, 1.25]


def test_stars_are_corrected_for_the_number_of_methods():
    """One of two p-values below 0.05 stays below it, times the number of methods."""
    values = {"plain": [10.0, 11.0, 12.0, 13.0], "A": [12.0, 13.1, 14.0, 15.0]}
    values |= {"B": [11.0, 11.3, 12.9, 13.3], "C": [10.0, 11.0, 11.9, 13.2]}
    for others in ("A", "AB", "ABC"):
        shown = {name: values[name] for name in ("plain", *others)}
        p_values = [stats.ttest_rel(values[name], values["plain"]).pvalue for name in others]
        corrected = multipletests(p_values)
        cells = _column_of_differences(shown, "plain")
        assert cells[0] == "11.50"
        for cell, p_value, holm_value in zip(cells[1:], p_values, corrected, strict=True):
            assert ("**" in cell) == (p_value < 0.05)
            assert cell.endswith(r" \*") == (holm_value < 0.05)
    assert [cell.count("*") for cell in cells] == [0, 5, 4, 0]


def multipletests(p_values):
    """Holm's corrected p-values by their definition: max_{j <= i} (m - j + 1) p_j, at most 1."""
    order = np.argsort(p_values)
    scaled = [min(1, (len(order) - j) * p_values[i]) for j, i in enumerate(order)]
    result = np.empty(len(order))
    result[order] = np.maximum.accumulate(scaled)
    return result
