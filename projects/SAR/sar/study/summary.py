"""Write the results of a comparison as text, and as data for the page: tables, recommendations."""

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sar.cli import call_of
from sar.config import load_config
from sar.data.units import units_of_config
from sar.errors import listed, printable
from sar.evaluation.table import grid
from sar.study.comparison import CHECKPOINT_PERIOD, OWN_SETTINGS
from sar.study.differences import paired_difference
from sar.study.matrix import ITERATIONS, Settings, Study
from sar.study.recommendation import LEAST_SEEDS, Scores, paired, recommend

# The metrics whose differences are shown with intervals.
_COMPARED = ("mIoU", "mIoU@r", "mIoU@r_pixel")
_LIMITS = (
    "The intervals show how much the results vary with the seed. They do not show how much they "
    "vary with other validation data or with longer trainings."
)

# The rows of a comparison by method and seed.
Found = Mapping[str, Mapping[int, dict]]


def summarize(study: Study, rows: Mapping[str, dict], imports: Sequence[str] = ()) -> str:
    """Return the text, in Markdown.

    Args:
        study: from `plan_comparison`.
        rows: the results by cell key. Failed trainings have none.
        imports: modules that a training imports.
    """
    found = _find(study, rows)
    parts = [
        f"# Comparison on {printable(study.title)}",
        f"Config: `{study.config}`. Iterations: {study.settings[ITERATIONS]}. Seeds: "
        f"{len(study.seeds)}. Each number is a mean over seeds. IoU is in percent.",
    ]
    parts += [*_missing(study, found), *changed_code(rows.values())]
    if not any(found.values()):
        return "\n\n".join(parts) + "\n"
    parts += [f"## Validation split, `{study.test}`", *_tables(study, found, "metrics")]
    parts.append("## Recommendation")
    for question, sentences in _recommendations(study, found):
        parts += [f"### {question}", "\n".join(sentences)]
    parts.append(_LIMITS)
    if study.held_out:
        parts += [
            f"## Test split, `{study.held_out}`",
            "No choice above uses these numbers.",
            *_tables(study, found, "held_out_metrics"),
        ]
    parts += ["## Methods", *_methods(study, imports), "## Trainings", *_trainings(found)]
    return "\n\n".join(parts) + "\n"


def advise(study: Study, rows: Mapping[str, dict]) -> dict | None:
    """Return the recommendations and the differences of the validation split, for the page.

    Args:
        study, rows: as in `summarize`.

    Returns:
        None without rows. Else types that JSON can hold. In all texts, `**` encloses bold words.
        "notes": texts about what limits the comparison; "recommendations": for each metric its
        "question" and "sentences"; "limits": a text; "caption", "metrics" and "differences" of the
        table: for each method its "name" and "cells", one text per metric.
    """
    found = _find(study, rows)
    if not any(found.values()):
        return None
    metrics, differences = _differences(study, found, "metrics")
    unknown = _unknown(study, _known_scores(study, found, "metrics"))
    return {
        "notes": [*_missing(study, found), *changed_code(rows.values()), *unknown],
        "recommendations": [
            {"question": question, "sentences": sentences}
            for question, sentences in _recommendations(study, found)
        ],
        "limits": _LIMITS,
        "caption": _caption(study),
        "metrics": metrics,
        "differences": [{"name": name, "cells": cells} for name, *cells in differences],
    }


def _find(study: Study, rows: Mapping[str, dict]) -> Found:
    found = {}
    for name, settings in study.chosen({}).items():
        cells = {seed: study.cell(settings, seed) for seed in study.seeds}
        found[name] = {seed: rows[c.key] for seed, c in cells.items() if c.key in rows}
    return found


def _missing(study: Study, found: Found) -> list[str]:
    """Return a text that names the methods with missing trainings; [] if there are none."""
    lacking = [
        f"{name} ({len(study.seeds) - len(by_seed)})"
        for name, by_seed in found.items()
        if len(by_seed) < len(study.seeds)
    ]
    if not lacking:
        return []
    return [
        f"**Missing trainings:** {', '.join(lacking)}. A mean over fewer seeds cannot be compared "
        f"with other means. Use the differences to {study.reference}: they only use seeds that "
        "both methods have."
    ]


def changed_code(rows: Iterable[Mapping]) -> list[str]:
    """Return a text that names the imported modules that changed between trainings, if there are.

    Args:
        rows: results with "imports": checksums of the modules by name.
    """
    versions = {version for row in rows for version in row.get("imports", {}).items()}
    counts = Counter(name for name, _ in versions)
    changed = sorted(name for name, count in counts.items() if count > 1)
    if not changed:
        return []
    return [
        f"The code of --import has changed between trainings ({', '.join(changed)}). If the change "
        "affects a method, remove the folders of its earlier trainings, and run the program again."
    ]


def _tables(study: Study, found: Found, key: str) -> list[str]:
    """Return a table of means and a table of differences.

    Args:
        key: the metrics of a row.
    """
    scores_of = _known_scores(study, found, key)
    means = []
    for name, by_seed in found.items():
        number, planned = len(by_seed), len(study.seeds)
        line = [name, str(number) if number == planned else f"{number} of {planned}"]
        for scores in scores_of.values():
            line.append(f"{statistics.fmean(scores[name].values()):.2f}" if by_seed else "-")
        times = [row["seconds_per_iteration"] for row in by_seed.values()]
        times = list(filter(math.isfinite, times))
        means.append([*line, f"{statistics.fmean(times):.2f}" if times else "-"])
    metrics, differences = _differences(study, found, key)
    return [
        grid(means, ["", "seeds", *scores_of, "s/iteration"]),
        *_unknown(study, scores_of),
        _caption(study),
        grid(differences, ["", *metrics]),
    ]


def _unknown(study: Study, scores_of: Mapping[str, Scores]) -> list[str]:
    """Return a sentence that names the metrics without scores; [] if there are none."""
    lacking = [metric for metric in study.metrics if metric not in scores_of]
    if not lacking:
        return []
    return [
        "No evaluated label shows a class of the group, so these metrics are left out: "
        f"{', '.join(lacking)}."
    ]


def _caption(study: Study) -> str:
    return (
        f"Differences to {study.reference}, with 95% intervals over the seeds (paired, Student's "
        f"t). **Bold**: the interval of {LEAST_SEEDS} seeds or more does not contain zero."
    )


def _differences(study: Study, found: Found, key: str) -> tuple[list[str], list[list[str]]]:
    """Return the compared metrics, and for each method its name and its differences as texts."""
    scores_of = _known_scores(study, found, key)
    metrics = [metric for metric in scores_of if metric in _COMPARED]
    differences = []
    for name in found:
        if name != study.reference:
            pairs = [
                paired(scores_of[metric][name], scores_of[metric][study.reference])
                for metric in metrics
            ]
            differences.append([name, *(_shown(*pair) if pair[0] else "-" for pair in pairs)])
    return metrics, differences


def _shown(values: Sequence[float], others: Sequence[float]) -> str:
    difference = paired_difference(values, others)
    is_bold = difference.is_clear and len(values) >= LEAST_SEEDS
    return f"**{difference}**" if is_bold else str(difference)


def _recommendations(study: Study, found: Found) -> list[tuple[str, list[str]]]:
    """Return questions and answers: by mIoU, and by the metrics of rare classes."""
    row = next(row for by_seed in found.values() for row in by_seed.values())
    units = units_of_config(load_config(study.config))
    rare = listed([printable(name) for name in row["groups"]["r"]])
    questions = {
        "mIoU": "All classes count the same (mIoU)",
        "mIoU@r": (
            f"Only the classes {units.on} the fewest {units.sample}s count (mIoU@r): {rare}"
        ),
        "mIoU@r_pixel": f"Only the classes with the fewest {units.part}s count (mIoU@r_pixel)",
    }
    parts, seen = [], []
    for metric, question in questions.items():
        scores = _scores(found, "metrics", metric)
        if not scores or scores in seen:  # both kinds of rare classes can be the same classes
            continue
        seen.append(scores)
        parts.append((question, recommend(scores, study.reference, metric)))
    return parts


def _known_scores(study: Study, found: Found, key: str) -> dict[str, Scores]:
    """Return the scores of each metric that all rows have."""
    scores_of = {metric: _scores(found, key, metric) for metric in study.metrics}
    return {metric: scores for metric, scores in scores_of.items() if scores}


def _scores(found: Found, key: str, metric: str) -> Scores:
    """Return a metric by method and seed; {} if a class group has no ground truth."""
    scores = {
        name: {seed: row[key].get(f"sem_seg/{metric}", math.nan) for seed, row in by_seed.items()}
        for name, by_seed in found.items()
    }
    is_known = all(math.isfinite(value) for values in scores.values() for value in values.values())
    return scores if is_known else {}


def _methods(study: Study, imports: Sequence[str]) -> list[str]:
    """Return the command line that trains the first method, and the keys of each method."""
    left_out = {CHECKPOINT_PERIOD, *OWN_SETTINGS}
    settings = {key: value for key, value in study.settings.items() if key not in left_out}
    options = [word for module in imports for word in ("--import", module)]
    command = f"{call_of('train_net.py')} {shlex.join([*options, '--config-file', study.config])}"
    keys = [[name, f"`{_words(of)}`" if of else "-"] for name, of in study.chosen({}).items()]
    return [
        "To train a method again, add its keys to this command:",
        f"    {command} {_words(settings)}",
        grid(keys, ["method", "keys"], num_texts=2),
    ]


def _trainings(found: Found) -> list[str]:
    """Return the mIoU of each training, and where its model is."""
    seeds = sorted({seed for by_seed in found.values() for seed in by_seed})
    table = [
        [name, *(_miou(by_seed[seed]) if seed in by_seed else "-" for seed in seeds)]
        for name, by_seed in found.items()
    ]
    return [
        "mIoU of each training. Its folder is `runs/METHOD_seed_N_...`, and `model_inference.pth` "
        "there is the file for `tools/predict.py` and `tools/export.py`.",
        grid(table, ["", *(f"seed {seed}" for seed in seeds)]),
    ]


def _miou(row: dict) -> str:
    return f"{row['metrics']['sem_seg/mIoU']:.2f}"


def _words(settings: Settings) -> str:
    """Return settings as a shell reads them."""
    words = []
    for key, value in settings.items():
        is_names = isinstance(value, list) and all(isinstance(name, str) for name in value)
        words += [key, ",".join(value) if is_names else str(value)]
    return shlex.join(words)
