"""Write the results of a comparison as text: tables, and a recommendation."""

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence

from sar.errors import listed, printable
from sar.evaluation.table import grid
from sar.study.differences import paired_difference
from sar.study.matrix import ITERATIONS, Settings, Study
from sar.study.recommendation import LEAST_SEEDS, Scores, paired, recommend

# The metrics whose differences are shown with intervals.
_COMPARED = ("mIoU", "mIoU@r", "mIoU@r_pixel")
# Settings of a comparison that a training of its own does not need.
_NOT_REPEATED = ("SOLVER.CHECKPOINT", "TEST.")


def summarize(study: Study, rows: Mapping[str, dict]) -> str:
    """Return the text, in Markdown.

    Args:
        study: from `plan_comparison`.
        rows: the results by cell key. Failed trainings have none.
    """
    chosen = study.chosen({})
    found: dict[str, dict[int, dict]] = {}
    for name, settings in chosen.items():
        cells = {seed: study.cell(settings, seed) for seed in study.seeds}
        found[name] = {seed: rows[c.key] for seed, c in cells.items() if c.key in rows}
    num_rows = sum(map(len, found.values()))
    parts = [
        f"# Comparison on {printable(study.title)}",
        f"Config: `{study.config}`. Iterations: {study.settings[ITERATIONS]}. Seeds: "
        f"{len(study.seeds)}. Each number is a mean over seeds. IoU is in percent.",
    ]
    if num_rows < len(chosen) * len(study.seeds):
        lacking = [
            f"{name} ({len(study.seeds) - len(by_seed)})"
            for name, by_seed in found.items()
            if len(by_seed) < len(study.seeds)
        ]
        parts.append(f"**Missing trainings:** {', '.join(lacking)}.")
    if not num_rows:
        return "\n\n".join(parts) + "\n"
    parts += [f"## Validation split, `{study.test}`", *_tables(study, found, "metrics")]
    parts += ["## Recommendation", *_recommendations(study, found)]
    if study.held_out:
        parts += [
            f"## Test split, `{study.held_out}`",
            "No choice above uses these numbers.",
            *_tables(study, found, "held_out_metrics"),
        ]
    parts += ["## Methods", *_methods(study), "## Trainings", *_trainings(found)]
    return "\n\n".join(parts) + "\n"


def _tables(study: Study, found: Mapping[str, Mapping[int, dict]], key: str) -> list[str]:
    """Return a table of means and a table of differences.

    Args:
        found: rows by method and seed.
        key: the metrics of a row.
    """
    reference = study.reference
    scores_of = {metric: _scores(found, key, metric) for metric in study.metrics}
    scores_of = {metric: scores for metric, scores in scores_of.items() if scores}
    means, differences = [], []
    for name, by_seed in found.items():
        line, compared = [name, str(len(by_seed))], [name]
        for metric, scores in scores_of.items():
            line.append(f"{statistics.fmean(scores[name].values()):.2f}" if by_seed else "-")
            values, others = paired(scores[name], scores[reference])
            if metric in _COMPARED:
                compared.append(_shown(values, others) if values else "-")
        times = [row["seconds_per_iteration"] for row in by_seed.values()]
        times = list(filter(math.isfinite, times))
        means.append([*line, f"{statistics.fmean(times):.2f}" if times else "-"])
        if name != reference:
            differences.append(compared)
    headers = ["", *(metric for metric in scores_of if metric in _COMPARED)]
    return [
        grid(means, ["", "seeds", *scores_of, "s/iteration"]),
        f"Differences to {reference}, with 95% intervals over the seeds (paired, Student's t). "
        f"**Bold**: the interval of {LEAST_SEEDS} seeds or more does not contain zero.",
        grid(differences, headers),
    ]


def _shown(values: Sequence[float], others: Sequence[float]) -> str:
    difference = paired_difference(values, others)
    is_bold = difference.is_clear and len(values) >= LEAST_SEEDS
    return f"**{difference}**" if is_bold else str(difference)


def _recommendations(study: Study, found: Mapping[str, Mapping[int, dict]]) -> list[str]:
    """Return paragraphs: by mIoU, by the metrics of rare classes, and the limits of the numbers."""
    row = next(row for by_seed in found.values() for row in by_seed.values())
    rare = listed([printable(name) for name in row["groups"]["r"]])
    questions = {
        "mIoU": "All classes count the same (mIoU)",
        "mIoU@r": f"Only the classes on the fewest images count (mIoU@r): {rare}",
        "mIoU@r_pixel": "Only the classes with the fewest pixels count (mIoU@r_pixel)",
    }
    parts, seen = [], []
    for metric, question in questions.items():
        scores = _scores(found, "metrics", metric)
        if not scores or scores in seen:  # both kinds of rare classes can be the same classes
            continue
        seen.append(scores)
        parts.append(f"### {question}")
        parts.append("\n".join(recommend(scores, study.reference, metric)))
    parts.append(
        "The intervals show how much the results vary with the seed. They do not show how much "
        "they vary with other validation images or with longer trainings."
    )
    return parts


def _scores(found: Mapping[str, Mapping[int, dict]], key: str, metric: str) -> Scores:
    """Return a metric by method and seed; {} if a class group has no ground truth."""
    scores = {
        name: {seed: row[key].get(f"sem_seg/{metric}", math.nan) for seed, row in by_seed.items()}
        for name, by_seed in found.items()
    }
    is_known = all(math.isfinite(value) for values in scores.values() for value in values.values())
    return scores if is_known else {}


def _methods(study: Study) -> list[str]:
    """Return the command line that trains the first method, and the keys of each method."""
    settings = {k: v for k, v in study.settings.items() if not k.startswith(_NOT_REPEATED)}
    command = shlex.join(["python", "train_net.py", "--config-file", study.config])
    keys = [[name, f"`{_words(of)}`" if of else "-"] for name, of in study.chosen({}).items()]
    return [
        "To train a method again, add its keys to this command:",
        f"    {command} {_words(settings)}",
        grid(keys, ["method", "keys"], num_texts=2),
    ]


def _trainings(found: Mapping[str, Mapping[int, dict]]) -> list[str]:
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
