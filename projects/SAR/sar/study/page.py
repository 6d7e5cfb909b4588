"""Write docs/results.md and its figures from the results file.

A difference is a mean over seeds: each seed compares two trainings. Its 95% interval uses Student's
t distribution.
"""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence

import matplotlib

from sar.evaluation.table import grid
from sar.files.program_outputs import Outputs
from sar.study.differences import holm, p_value, paired_difference
from sar.study.matrix import Settings, Study

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

Rows = Mapping[str, dict]

INTRODUCTION = """# Results

`python experiments/run.py` writes this page from [results.jsonl](../experiments/results.jsonl).

- IoU is in percent. `mIoU@f`, `mIoU@c` and `mIoU@r` are means over the frequent, common and rare
  classes. The groups depend on the number of training images that show a class. With `_pixel`, they
  depend on the number of training pixels.
- A difference is the mean over seeds. For each seed, two trainings with this seed are compared. The
  brackets show the 95% interval (Student's t).
- **Bold** differences are clear: their interval does not contain zero. If two methods are equal,
  one difference in twenty is bold by chance.
- A star marks differences that stay clear if they are corrected for the number of methods in their
  table (Holm's method, for each metric). Tables of methods in pairs are not corrected.

[Findings](findings.md) explains the results."""
_LEVEL = 0.05
GEOMETRY = ("NC1", "NC2_equinorm", "NC2_equiangularity", "NC3")


def write_page(studies: Sequence[Study], rows: Rows, docs: Outputs) -> None:
    """Write results.md and its figures.

    A study appears when its settings are chosen, and its reference and another method are trained
    with every seed. A method or variant of the ablations appears when it is trained with every
    seed.
    """
    parts = [INTRODUCTION]
    for study in studies:
        if all(cell.key in rows for cell in study.choice_cells()):
            section = _Section(study, rows, docs)
            if study.reference in section.methods and len(section.methods) > 1:
                parts += section.parts()
    with docs.writing(docs.folder / "results.md") as temporary:
        temporary.write_text("\n\n".join(parts).rstrip() + "\n", encoding="utf-8")


class _Section:
    """The section of one study."""

    def __init__(self, study: Study, rows: Rows, docs: Outputs) -> None:
        self.study, self.rows, self.docs = study, rows, docs
        chosen = study.chosen(rows)
        self.methods = self._trained(chosen, study.seeds)
        self.variants = {}
        if study.ablated:
            compared = {study.ablated: chosen[study.ablated]} | study.ablations(chosen)
            self.variants = self._trained(compared, study.ablation_seeds)
        self.name = re.sub("[^a-z0-9]+", "-", study.title.lower()).strip("-")

    def parts(self) -> list[str]:
        study = self.study
        parts = [f"## {study.title}", study.description.strip(), self._set_up(), "### Methods"]
        parts.append(self._comparison(self.methods, study.reference))
        parts.append(self._figure("methods", self._draw_differences))
        parts += [
            "### Methods in pairs",
            "Each cell is the mean of the row's method minus the mean of the column's method.",
            *(f"**{metric}**\n\n{self._pairs(metric)}" for metric in ("mIoU", "mIoU@r")),
        ]
        parts += [
            "### Classes",
            "Mean IoU of each class, the most frequent class first.",
            self._classes(),
        ]
        parts += [
            "### Geometry of the feature space",
            "All values are 0 at full neural collapse. *NC1*: variability within classes. "
            "*NC2_equinorm*: differences between the norms of the class centres. "
            "*NC2_equiangularity*: differences between the angles of the class centres. *NC3*: "
            "distance of the classifier from the class centres.",
            self._geometry(),
            "### Cost of training",
            f"For each seed, the cost of a training is divided by the cost of {study.reference}. "
            "The table shows the median of these ratios. Only trainings of the same commit are "
            "compared, because other commits may have run on another machine. Trainings that were "
            "interrupted are left out. *-*: no seed has two such trainings. "
            "[Benchmarks](benchmarks.md) compares the time of a step with other implementations.",
            self._cost(),
        ]
        if self._with_pull():
            parts += [
                "### Losses",
                "*Gate open since*: after this iteration, the gate was open at every recorded "
                "step. *Share of steps*: share of the recorded steps with an open gate. *Pull / "
                "cross-entropy*: ratio of the two losses at the start, in the middle and at the "
                "end.",
                self._losses(),
                self._figure("losses", self._draw_losses),
            ]
        if study.ablated in self.variants and len(self.variants) > 1:
            seeds = ", ".join(map(str, study.ablation_seeds))
            parts += [
                f"### Ablations of {study.ablated}",
                f"Each variant changes the chosen settings of {study.ablated}, and is compared "
                f"with these settings. Seeds: {seeds}.",
                self._comparison(self.variants, study.ablated),
            ]
        if study.choice:
            parts += ["### Choice of hyper-parameters", self._choice()]
        return parts

    def _trained(
        self, settings_of: Mapping[str, Settings], seeds: Sequence[int]
    ) -> dict[str, list[dict]]:
        """Return a row for each seed, of all settings that are trained with every seed."""
        found = {
            name: [self.rows.get(self.study.cell(settings, seed).key) for seed in seeds]
            for name, settings in settings_of.items()
        }
        return {name: rows for name, rows in found.items() if all(rows)}

    def _set_up(self) -> str:
        found = [*self.methods.values(), *self.variants.values()]
        rows = list({row["key"]: row for rows in found for row in rows}.values())
        hours = sum(row["seconds"] for row in rows) / 3600
        machines = {f"{row['device']}, {row['threads']} thread(s) per training" for row in rows}
        versions = {row["versions"] for row in rows}
        commits = {row["commit"] for row in rows}
        seeds = ", ".join(map(str, self.study.seeds))
        common = "\n".join(f"    {key} {value}" for key, value in self.study.settings.items())
        missing = ", ".join(name for name in self.study.methods if name not in self.methods)
        return (
            f"All trainings use `{self.study.config}` with\n\n{common}\n\nThe evaluation uses "
            f"`{self.study.test}`. Seeds: {seeds}. {len(rows)} trainings took {hours:.1f} hours in "
            f"total on {'; '.join(sorted(machines))}. Versions: {'; '.join(sorted(versions))}. "
            f"Commits: {', '.join(sorted(commits))}."
            f"{f' Not trained yet: {missing}.' if missing else ''}"
        )

    def _comparison(self, rows_of: Mapping[str, list[dict]], reference: str) -> str:
        """Return a table of means and of differences to the reference."""
        columns = []
        for metric in self.study.metrics:
            values = {name: _values(rows, f"sem_seg/{metric}") for name, rows in rows_of.items()}
            columns.append(_column_of_differences(values, reference))
        table = [list(line) for line in zip(rows_of, *columns, strict=True)]
        return grid(table, ["", *self.study.metrics])

    def _pairs(self, metric: str) -> str:
        values = {name: _values(rows, f"sem_seg/{metric}") for name, rows in self.methods.items()}
        table = []
        for name, found in values.items():
            differences = [paired_difference(found, others) for others in values.values()]
            cells = [f"{found.mean:+.1f}" for found in differences]
            cells = [
                f"**{cell}**" if found.is_clear else cell
                for cell, found in zip(cells, differences, strict=True)
            ]
            cells[list(values).index(name)] = ""
            table.append([name, *cells])
        return grid(table, ["", *values])

    def _classes(self) -> str:
        groups = self.methods[self.study.reference][0]["groups"]
        table = [
            [name, group]
            + [
                f"{statistics.fmean(_values(rows, f'sem_seg/IoU-{name}')):.1f}"
                for rows in self.methods.values()
            ]
            for group, names in groups.items()
            for name in names
        ]
        return grid(table, ["class", "group", *self.methods])

    def _geometry(self) -> str:
        return grid(
            [
                [name]
                + [
                    f"{statistics.fmean(_values(rows, f'geometry/{metric}')):.3g}"
                    for metric in GEOMETRY
                ]
                for name, rows in self.methods.items()
            ],
            ["", *GEOMETRY],
        )

    def _cost(self) -> str:
        reference = self.methods[self.study.reference]
        on_gpu = reference[0]["gpu_mib"] is not None
        # Do not use wall-clock time: trainings that share a CPU slow each other down.
        costs = {"CPU time, with the evaluation": "cpu_seconds", "memory": "resident_mib"}
        if on_gpu:
            costs = {"time of an iteration": "seconds_per_iteration", "memory": "gpu_mib"}
        table = []
        for name, rows in self.methods.items():
            line = [name]
            for cost in costs.values():
                ratios = [
                    row[cost] / other[cost]
                    for row, other in zip(rows, reference, strict=True)
                    if row["commit"] == other["commit"]
                    and not (row.get("is_resumed") or other.get("is_resumed"))
                ]
                line.append(f"{statistics.median(ratios):.2f}" if ratios else "-")
            table.append(line)
        return grid(table, ["", *costs])

    def _with_pull(self) -> dict[str, list[dict]]:
        variants = {name: rows for name, rows in self.variants.items() if name not in self.methods}
        both = self.methods | variants
        return {name: rows for name, rows in both.items() if "loss_sar_pull" in rows[0]["curves"]}

    def _losses(self) -> str:
        table = []
        for name, rows in self._with_pull().items():
            opened, shares, ratios = [], [], []
            for row in rows:
                curve = row["curves"]
                gate, iterations = curve["sar/gate_is_open"], curve["iteration"]
                closed = [i for i, is_open in zip(iterations, gate, strict=True) if is_open < 1]
                # inf if the gate is closed at the end.
                opened.append(math.inf if gate[-1] < 1 else closed[-1] if closed else 0)
                shares.append(statistics.fmean(gate))
                pairs = zip(curve["loss_sar_pull"], _loss_of_head(curve), strict=True)
                ratio = [pull / loss for pull, loss in pairs]
                ratios.append([ratio[0], ratio[len(ratio) // 2], ratio[-1]])
            means = [statistics.fmean(column) for column in zip(*ratios, strict=True)]
            table.append(
                [
                    name,
                    f"{statistics.median(opened):.0f}".replace("inf", "-"),
                    f"{statistics.fmean(shares):.0%}",
                    ", ".join(f"{mean:.2g}" for mean in means),
                ]
            )
        return grid(table, ["", "gate open since", "share of steps", "pull / cross-entropy"])

    def _choice(self) -> str:
        choice, chosen = self.study.choice, self.study.chosen(self.rows)
        table = []
        for name, candidates in self.study.candidates.items():
            for settings in candidates:
                words = ", ".join(f"`{key} {value}`" for key, value in settings.items())
                score = f"{self.study.score(settings, self.rows):.2f}"
                is_chosen = len(candidates) > 1 and settings == chosen[name]
                table.append([name, words, f"**{score}**" if is_chosen else score])
        seeds = ", ".join(map(str, choice.seeds))
        text = (
            f"The score is the mean of `{choice.metric}` on `{choice.test}`, over the seeds "
            f"{seeds}. The tables above do not use these seeds. **Bold** marks the chosen settings."
        )
        combined = [
            f"*{name}* combines {' with '.join(parts)}."
            for name, parts in self.study.combinations.items()
        ]
        return "\n\n".join([text, grid(table, ["method", "settings", "score"]), *combined])

    def _figure(self, kind: str, draw: Callable[[], plt.Figure]) -> str:
        file = f"results-{self.name}-{kind}.png"
        figure = draw()
        with self.docs.writing(self.docs.folder / file) as temporary:
            figure.savefig(temporary, dpi=90)
        plt.close(figure)
        return f"![{self.study.title}: {kind}]({file})"

    def _draw_differences(self) -> plt.Figure:
        """Draw the differences to the reference with their intervals, one panel per metric."""
        names = [name for name in self.methods if name != self.study.reference]
        figure, (panels,) = plt.subplots(
            1,
            len(self.study.metrics),
            figsize=(11, 1.1 + 0.35 * len(names)),
            sharey=True,
            squeeze=False,
        )
        reference = self.methods[self.study.reference]
        for panel, metric in zip(panels, self.study.metrics, strict=True):
            for place, name in enumerate(names):
                values = _values(self.methods[name], f"sem_seg/{metric}")
                found = paired_difference(values, _values(reference, f"sem_seg/{metric}"))
                color = "0.6"
                if found.is_clear:
                    color = "tab:green" if found.mean > 0 else "tab:red"
                if math.isfinite(found.low):
                    panel.plot([found.low, found.high], [place, place], color=color, linewidth=2)
                panel.plot(found.mean, place, "o", color=color)
            panel.axvline(0, color="0.3", linewidth=0.8)
            panel.set_title(metric, fontsize=10)
            panel.grid(axis="x", alpha=0.3)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        figure.supxlabel(f"difference to {self.study.reference}, 95% interval", fontsize=9)
        figure.tight_layout()
        return figure

    def _draw_losses(self) -> plt.Figure:
        """Draw the losses of the first seed, one panel per method."""
        rows_of = {name: rows for name, rows in self._with_pull().items() if name in self.methods}
        figure, panels = plt.subplots(
            1, len(rows_of), figsize=(3.4 * len(rows_of), 3), sharey=True, squeeze=False
        )
        curves = {name: rows[0]["curves"] for name, rows in rows_of.items()}
        names = {loss for curve in curves.values() for loss in curve if loss.startswith("loss_")}
        colors = {loss: f"C{i}" for i, loss in enumerate(sorted(names))}
        for panel, (name, curve) in zip(panels[0], curves.items(), strict=True):
            for loss in filter(colors.get, curve):
                shown = [value if value > 0 else math.nan for value in curve[loss]]
                panel.semilogy(curve["iteration"], shown, ".-", color=colors[loss], label=loss)
            panel.set_title(name, fontsize=10)
            panel.set_xlabel("iteration")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
        figure.tight_layout()
        return figure


def _values(rows: Sequence[dict], metric: str) -> list[float]:
    return [row["metrics"][metric] for row in rows]


def _column_of_differences(values: Mapping[str, list[float]], reference: str) -> list[str]:
    """Return a cell for each method: its mean, and its difference to the reference."""
    others = [name for name in values if name != reference]
    corrected = holm([p_value(values[name], values[reference]) for name in others])
    p_values = dict(zip(others, corrected, strict=True))
    cells = []
    for name, found in values.items():
        cell = f"{statistics.fmean(found):.2f}"
        if name != reference:
            difference = paired_difference(found, values[reference])
            text = f"**{difference}**" if difference.is_clear else str(difference)
            cell += f"<br>{text}" + r" \*" * (p_values[name] < _LEVEL)
        cells.append(cell)
    return cells


def _loss_of_head(curve: dict[str, list[float]]) -> list[float]:
    """Return the curve of the head's loss. A sum of losses has a curve for each of its terms."""
    others = ("loss_sem_seg_aux", "loss_sem_seg_regions")
    names = [name for name in curve if name.startswith("loss_sem_seg") and name not in others]
    return [sum(values) for values in zip(*(curve[name] for name in names), strict=True)]
