"""What a study compares, read from its file: methods, their candidates, seeds, ablations.

    title: LongTailShapes
    description: what the page says of the set-up
    config: configs/...                 what all cells train, relative to the project's folder
    settings: {KEY: value}              of all cells
    test: longtail_shapes_test          the data that results are reported of
    metrics: [mIoU, mIoU@r]             that are compared
    seeds: [0, 1, 2]
    choice:                             of hyper-parameters, on data and seeds not reported
      test: longtail_shapes_val
      seeds: [100, 101]
      metric: sem_seg/mIoU
    methods:                            the first is what the others are compared with
      plain: [{}]
      SAR: [{KEY: value}, {KEY: other}]               candidates
      both: {together: [SAR, weights]}                chosen settings, lists in them joined
    ablations:
      of: SAR
      seeds: [0, 1]
      variants:
        no filter: {KEY: value}

A method of one candidate, as where there is no choice, has nothing to choose.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import yaml

from sar.errors import InputError

Settings = dict[str, object]

_KEYS = {"title", "description", "config", "settings", "test", "metrics", "seeds", "methods"}
_OPTIONAL = {"choice", "ablations"}


@dataclass(frozen=True, eq=False)
class Cell:
    """One training and its evaluation.

    Attributes:
        study: the title of its study.
        config: a config file.
        settings: what is set beside it.
        test: the data set that is evaluated.
        seed: of the training.
    """

    study: str
    config: str
    settings: Settings
    test: str
    seed: int

    @property
    def key(self) -> str:
        """What tells it from other cells: the same for the same training and evaluation."""
        known = {name: value for name, value in vars(self).items() if name != "study"}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Choice:
    """On what hyper-parameters are chosen: the data, the seeds, and the metric to be highest."""

    test: str
    seeds: Sequence[int]
    metric: str


@dataclass(frozen=True)
class Study:
    """As its file; see above. `candidates` and `combinations` are the methods of either kind."""

    title: str
    description: str
    config: str
    settings: Settings
    test: str
    metrics: Sequence[str]
    seeds: Sequence[int]
    methods: Sequence[str]
    candidates: Mapping[str, Sequence[Settings]]
    combinations: Mapping[str, Sequence[str]]
    choice: Choice | None = None
    ablated: str = ""
    ablation_seeds: Sequence[int] = ()
    variants: Mapping[str, Settings] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The method that the others are compared with."""
        return self.methods[0]

    def cell(self, settings: Settings, seed: int) -> Cell:
        """A cell that is reported."""
        return Cell(self.title, self.config, self.settings | settings, self.test, seed)

    def choice_cell(self, settings: Settings, seed: int) -> Cell:
        """A cell that something is chosen by."""
        return Cell(self.title, self.config, self.settings | settings, self.choice.test, seed)

    def choice_cells(self) -> list[Cell]:
        """All of those; none where every method has one candidate."""
        if not self.choice:
            return []
        return [
            self.choice_cell(settings, seed)
            for seed in self.choice.seeds
            for candidates in self.candidates.values()
            for settings in candidates
        ]

    def cells(self, rows: Mapping[str, dict]) -> list[Cell]:
        """Those that are reported: of the methods, and then of one ablation after the other.

        Args:
            rows: results by the cell's key, of all choice cells.
        """
        variants = self.ablations(self.chosen(rows)).values()
        seeds = self.ablation_seeds
        return self.method_cells(rows) + [self.cell(s, seed) for s in variants for seed in seeds]

    def method_cells(self, rows: Mapping[str, dict]) -> list[Cell]:
        """Of what is chosen, a seed after the other.

        Args:
            rows: as in `cells`.
        """
        chosen = self.chosen(rows).values()
        return [self.cell(settings, seed) for seed in self.seeds for settings in chosen]

    def chosen(self, rows: Mapping[str, dict]) -> dict[str, Settings]:
        """The settings of each method: of its candidates, those of the best mean.

        Args:
            rows: as in `cells`.
        """
        best = {
            name: max(candidates, key=lambda settings: self.score(settings, rows))
            for name, candidates in self.candidates.items()
        }
        for name, parts in self.combinations.items():
            best[name] = reduce(_joined, (best[part] for part in parts))
        return {name: best[name] for name in self.methods}

    def score(self, settings: Settings, rows: Mapping[str, dict]) -> float:
        """The mean of what is chosen by; 0 where there is no choice."""
        if not self.choice:
            return 0.0
        scores = [
            rows[self.choice_cell(settings, seed).key]["metrics"][self.choice.metric]
            for seed in self.choice.seeds
        ]
        return sum(scores) / len(scores)

    def ablations(self, chosen: Mapping[str, Settings]) -> dict[str, Settings]:
        """The settings of each variant of the ablated method."""
        return {name: chosen[self.ablated] | s for name, s in self.variants.items()}


def _joined(settings: Settings, others: Settings) -> Settings:
    """Both; a key that has a list in both, such as that of the regularizers, has all of it."""
    lists = {
        key: value + others[key]
        for key, value in settings.items()
        if isinstance(value, list) and key in others
    }
    return settings | others | lists


def read_study(path: str | Path) -> Study:
    """The study of a file.

    Raises:
        InputError: it cannot be read, or is not as above.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not _KEYS <= set(content) <= _KEYS | _OPTIONAL:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else "no mapping"
        raise InputError(
            f"{path}: expected {', '.join(sorted(_KEYS))} and perhaps "
            f"{', '.join(sorted(_OPTIONAL))}, found {found}"
        )
    methods = content.pop("methods")
    ablations = content.pop("ablations", {"of": "", "seeds": [], "variants": {}})
    choice = content.pop("choice", None)
    study = Study(
        **content,
        methods=list(methods),
        candidates={name: value for name, value in methods.items() if isinstance(value, list)},
        combinations={
            name: value["together"] for name, value in methods.items() if isinstance(value, dict)
        },
        choice=Choice(**choice) if choice else None,
        ablated=ablations["of"],
        ablation_seeds=ablations["seeds"],
        variants=ablations["variants"],
    )
    _check(study, path)
    return study


def _check(study: Study, path: str | Path) -> None:
    named = [study.ablated] if study.ablated else []
    for parts in study.combinations.values():
        named += parts
    unknown = set(named) - set(study.candidates)
    if unknown:
        raise InputError(f"{path}: no method with candidates is called {', '.join(unknown)}")
    several = [name for name, candidates in study.candidates.items() if len(candidates) > 1]
    if several and not study.choice:
        raise InputError(f"{path}: {several[0]} has several candidates, but there is no choice")
    if study.choice and set(study.choice.seeds) & set(study.seeds):
        raise InputError(f"{path}: choice has seeds that are reported")
    if not set(study.ablation_seeds) <= set(study.seeds):
        raise InputError(f"{path}: ablations have seeds that are not reported")
