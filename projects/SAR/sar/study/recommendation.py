"""Recommend a method from the results of a comparison, and say how certain this is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sar.study.differences import Difference, paired_difference, pairs_needed

# Values of a metric by seed, for each method. A failed training has no entry.
Scores = Mapping[str, Mapping[int, float]]

# With fewer seeds, chance and a difference cannot be told apart.
LEAST_SEEDS = 3
_LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """A method and its difference to the reference.

    Attributes:
        method: its name.
        difference: to the reference, with the 95% interval.
        corrected: the same with the interval for several comparisons (Bonferroni): if all methods
            are equal, one of the intervals lies above zero in at most 2.5% of all studies.
        num_seeds: number of pairs.
        num_methods: number of methods that were compared with the reference.
        seeds_needed: number of seeds with which the 95% interval would be clear, if mean and spread
            stay as they are; at most 100. 0 for a single pair.
    """

    method: str
    difference: Difference
    corrected: Difference
    num_seeds: int
    num_methods: int
    seeds_needed: int

    @property
    def certainty(self) -> str:
        """Return "high", "medium", "low", or "none" for fewer than three seeds."""
        if self.num_seeds < LEAST_SEEDS:
            return "none"
        if self.corrected.low > 0:
            return "high"
        return "medium" if self.difference.low > 0 else "low"


def judge(scores: Scores, reference: str) -> Verdict | None:
    """Return the best method against the reference; None if none shares a seed with it.

    A method with LEAST_SEEDS comes before one without. Of these, a method that is clearly better
    than the reference comes before one that is not. Otherwise, the highest mean decides.

    Args:
        scores: higher is better.
        reference: one of the methods.
    """
    pairs = {name: paired(scores[name], scores[reference]) for name in scores}
    pairs = {name: found for name, found in pairs.items() if name != reference and found[0]}
    if not pairs:
        return None
    verdicts = [
        Verdict(
            name,
            paired_difference(values, references),
            paired_difference(values, references, 1 - _LEVEL / len(pairs)),
            len(values),
            len(pairs),
            pairs_needed(values, references) if len(values) > 1 else 0,
        )
        for name, (values, references) in pairs.items()
    ]
    order = ("none", "low", "medium", "high")
    return max(
        verdicts, key=lambda verdict: (order.index(verdict.certainty), verdict.difference.mean)
    )


def not_clearly_below(scores: Scores, method: str) -> list[str]:
    """Return the other methods whose 95% interval of the difference to `method` reaches zero."""
    found = []
    for name in scores:
        values, others = paired(scores[name], scores[method])
        if name != method and values and paired_difference(values, others).high >= 0:
            found.append(name)
    return found


def recommend(scores: Scores, reference: str, metric: str) -> list[str]:
    """Return sentences that recommend a method by one metric.

    Args:
        scores: values of the metric, as in `judge`.
        reference: the method that the others are compared with.
        metric: its name.
    """
    verdict = judge(scores, reference)
    if verdict is None:
        return [f"No method can be compared with {reference} in {metric}: trainings are missing."]
    method, found = verdict.method, f"{verdict.difference} {metric}"
    seeds = f"{verdict.num_seeds} seed{'s' * (verdict.num_seeds > 1)}"
    if verdict.certainty == "none":
        return [
            f"**{method}** has the highest mean: {found} against {reference}, {seeds}."
            if verdict.difference.mean > 0
            else f"No method has a higher mean {metric} than **{reference}** ({seeds}).",
            f"Certainty: none. {_WHY_NONE[verdict.num_seeds]}",
        ]
    if verdict.difference.mean <= 0:
        contains = "contains zero" if verdict.difference.high >= 0 else "is below zero"
        return [
            f"Keep **{reference}**: no method with {LEAST_SEEDS} seeds or more has a higher mean "
            f"{metric} ({seeds}). The closest is {method}: {found}. This interval {contains}."
        ]
    if verdict.certainty == "low":
        needed = "more than 99" if verdict.seeds_needed > 99 else f"about {verdict.seeds_needed}"
        return [
            f"Keep **{reference}**: no method is clearly better in {metric}. The closest is "
            f"{method}: {found}, {seeds}.",
            f"Certainty: low. The interval contains zero. If the difference is real, {needed} "
            "seeds would show it.",
        ]
    sentences = [f"Use **{method}**: {found} against {reference}, {seeds}."]
    if verdict.certainty == "high":
        sentences.append(
            "Certainty: high. The interval stays above zero if it is corrected for "
            f"{_comparisons(verdict)}: {verdict.corrected}."
        )
    else:
        sentences.append(
            "Certainty: medium. The interval is above zero, but not if it is corrected for "
            f"{_comparisons(verdict)}: {verdict.corrected}. More seeds help."
        )
    if equals := not_clearly_below(scores, method):
        sentences.append(f"Not clearly worse than {method}: {', '.join(equals)}.")
    return sentences


_WHY_NONE = {
    1: "With one seed, a difference between methods looks the same as chance. Use --seeds 3 or "
    "more; finished trainings are kept.",
    2: "Two seeds cannot show how much results differ by chance, so their intervals are very wide. "
    "Use --seeds 3 or more; finished trainings are kept.",
}


def _comparisons(verdict: Verdict) -> str:
    number = verdict.num_methods
    return f"{number} comparisons" if number > 1 else "one comparison"


def paired(
    values: Mapping[int, float], others: Mapping[int, float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the values of the seeds that both have."""
    seeds = sorted(values.keys() & others.keys())
    return [values[seed] for seed in seeds], [others[seed] for seed in seeds]
