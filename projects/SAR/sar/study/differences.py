"""Differences between two methods that were trained with the same seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Difference(NamedTuple):
    """A mean difference and its interval. The interval of a single pair is infinite."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Return True if the interval does not contain zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def paired_difference(
    values: Sequence[float], reference: Sequence[float], confidence: float = 0.95
) -> Difference:
    """Return the mean of value - reference, with the interval of a paired t-test.

    Args:
        values, reference: numbers of the same seeds in the same order, at least one.
        confidence: of the interval, such as 0.95.
    """
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Difference(mean, -math.inf, math.inf)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    half = student_quantile((1 + confidence) / 2, len(differences) - 1) * error
    return Difference(mean, mean - half, mean + half)


def p_value(values: Sequence[float], reference: Sequence[float]) -> float:
    """Return the two-sided p-value of a paired t-test; 1 for a single pair.

    Args:
        values, reference: as in `paired_difference`.
    """
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    if len(differences) < 2:
        return 1.0
    mean, spread = abs(statistics.fmean(differences)), statistics.stdev(differences)
    if spread == 0:
        return float(mean == 0)
    degrees = len(differences) - 1
    angle = math.atan(mean * math.sqrt(len(differences)) / (spread * math.sqrt(degrees)))
    return 1 - _central_probability(angle, degrees)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scandinavian Journal of Statistics, 1979).

    If no difference is real, the smallest of them is below 0.05 in at most 5% of all studies.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def pairs_needed(values: Sequence[float], reference: Sequence[float], at_most: int = 100) -> int:
    """Return how many seeds make the 95% interval clear, if mean and spread stay as they are.

    Args:
        values, reference: as in `paired_difference`, at least two.
        at_most: the result if more seeds are needed.
    """
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    mean, spread = abs(statistics.fmean(differences)), statistics.stdev(differences)
    for number in range(2, at_most):
        if student_quantile(0.975, number - 1) * spread < mean * math.sqrt(number):
            return number
    return at_most


def student_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution.

    Args:
        probability: above 0.5 and below 1.
        degrees: the degrees of freedom, at least 1.
    """
    # The central probability grows with the angle atan(t / sqrt(degrees)); find it by bisection.
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        if _central_probability(middle, degrees) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _central_probability(angle: float, degrees: int) -> float:
    """Return P(|T| < sqrt(degrees) tan(angle)).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, equations 26.7.3 and 26.7.4.
    """
    is_odd = degrees % 2
    term = math.cos(angle) if is_odd else 1.0
    total = 0.0
    for power in range(is_odd, degrees - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if is_odd else total
