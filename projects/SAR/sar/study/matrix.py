"""Read a study from its YAML file: methods, their candidate settings, seeds and ablations.

    title: LongTailShapes
    description: text about the set-up, for the page
    config: configs/...                 the config of all trainings
    settings: {KEY: value}              overrides for all trainings, with SOLVER.MAX_ITER
    test: longtail_shapes_test          the data set of the reported results
    metrics: [mIoU, mIoU@r]             the metrics to compare
    seeds: [0, 1, 2]
    choice:                             chooses hyper-parameters on separate data and seeds
      test: longtail_shapes_val
      seeds: [100, 101]
      metric: sem_seg/mIoU              the candidate with the highest mean is chosen
    methods:                            all methods are compared with the first
      plain: [{}]
      SAR: [{KEY: value}, {KEY: other}]               a list of candidates
      both: {together: [SAR, weights]}                chosen settings of both; lists are joined
    ablations:                          variants of the chosen settings of one method
      of: SAR
      seeds: [0, 1]
      variants:
        no filter: {KEY: value}

`choice` is only needed if a method has several candidates.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from pathlib import Path

import yaml

from sar.errors import InputError, nearest

Settings = dict[str, object]

_KEYS = {"title", "description", "config", "settings", "test", "metrics", "seeds", "methods"}
_OPTIONAL = {"choice", "ablations"}
ITERATIONS = "SOLVER.MAX_ITER"


@dataclass(frozen=True, eq=False)
class Cell:
    """One training and its evaluation.

    Attributes:
        study: the title of the study.
        config: a config file.
        settings: overrides of the config.
        test: the data set of the evaluation.
        seed: SEED.
        held_out: a data set that is also evaluated, but chooses nothing; "" for none.
    """

    study: str
    config: str
    settings: Settings
    test: str
    seed: int
    held_out: str = ""

    @property
    def iterations(self) -> int:
        """Return SOLVER.MAX_ITER."""
        return int(self.settings[ITERATIONS])

    @property
    def key(self) -> str:
        """Return 12 hexadecimal digits that are equal for equal trainings and evaluations."""
        known = {name: value for name, value in vars(self).items() if name != "study"}
        if not self.held_out:
            del known["held_out"]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Choice:
    """The data set, seeds and metric that choose hyper-parameters. A higher metric is better."""

    test: str
    seeds: Sequence[int]
    metric: str


@dataclass(frozen=True)
class Study:
    """The content of a study file. The methods are in two groups: candidates and combinations.

    Attributes:
        candidates: methods with a list of candidate settings.
        combinations: methods that join the chosen settings of other methods.
        ablated: the method that `variants` change; "" without ablations.
        held_out: a data set that the reported trainings also evaluate; "" for none.
    """

    title: str
    description: str
    config: str
    settings: Settings
    test: str
    metrics: Sequence[str]
    seeds: Sequence[int]
    methods: Sequence[str]
    candidates: Mapping[str, Sequence[Settings]]
    combinations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    choice: Choice | None = None
    ablated: str = ""
    ablation_seeds: Sequence[int] = ()
    variants: Mapping[str, Settings] = field(default_factory=dict)
    held_out: str = ""

    @property
    def reference(self) -> str:
        """Return the method that all other methods are compared with."""
        return self.methods[0]

    def only(self, names: Collection[str]) -> "Study":
        """Return the study of some methods, without ablations.

        Raises:
            InputError: a name is not a method.
        """
        unknown = [name for name in names if name not in self.methods]
        if unknown:
            raise InputError(
                f'{self.title} has no method "{unknown[0]}".{nearest(unknown[0], self.methods)} '
                f"There are: {', '.join(self.methods)}."
            )
        combinations = {k: parts for k, parts in self.combinations.items() if k in names}
        needed = {*names, *chain.from_iterable(combinations.values())}
        return replace(
            self,
            methods=[name for name in self.methods if name in names],
            candidates={name: s for name, s in self.candidates.items() if name in needed},
            combinations=combinations,
            ablated="",
            ablation_seeds=(),
            variants={},
        )

    def cell(self, settings: Settings, seed: int) -> Cell:
        """Return the cell of a training that the page reports."""
        settings = self.settings | settings
        return Cell(self.title, self.config, settings, self.test, seed, self.held_out)

    def choice_cell(self, settings: Settings, seed: int) -> Cell:
        """Return the cell of a training that chooses hyper-parameters."""
        return Cell(self.title, self.config, self.settings | settings, self.choice.test, seed)

    def choice_cells(self) -> list[Cell]:
        """Return all cells that choose hyper-parameters; none without `choice`."""
        if not self.choice:
            return []
        return [
            self.choice_cell(settings, seed)
            for seed in self.choice.seeds
            for candidates in self.candidates.values()
            for settings in candidates
        ]

    def cells(self, rows: Mapping[str, dict]) -> list[Cell]:
        """Return the reported cells: first the methods, then the ablations.

        Args:
            rows: results by cell key. They must include all cells of `choice_cells`.
        """
        variants = self.ablations(self.chosen(rows)).values()
        seeds = self.ablation_seeds
        return self.method_cells(rows) + [self.cell(s, seed) for s in variants for seed in seeds]

    def method_cells(self, rows: Mapping[str, dict]) -> list[Cell]:
        """Return the cells of the chosen settings, ordered by seed.

        Args:
            rows: as in `cells`.
        """
        chosen = self.chosen(rows).values()
        return [self.cell(settings, seed) for seed in self.seeds for settings in chosen]

    def chosen(self, rows: Mapping[str, dict]) -> dict[str, Settings]:
        """Return the settings of each method: its candidate with the best mean score.

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
        """Return the mean of the choice's metric over its seeds; 0 without `choice`."""
        if not self.choice:
            return 0.0
        scores = [
            rows[self.choice_cell(settings, seed).key]["metrics"][self.choice.metric]
            for seed in self.choice.seeds
        ]
        return sum(scores) / len(scores)

    def ablations(self, chosen: Mapping[str, Settings]) -> dict[str, Settings]:
        """Return the settings of each variant of the ablated method."""
        return {name: chosen[self.ablated] | s for name, s in self.variants.items()}


def _joined(settings: Settings, others: Settings) -> Settings:
    """Merge both settings. Lists with the same key, such as regularizers, are joined."""
    lists = {
        key: value + others[key]
        for key, value in settings.items()
        if isinstance(value, list) and key in others
    }
    return settings | others | lists


def read_study(path: str | Path) -> Study:
    """Read a study from a file.

    Raises:
        InputError: the file cannot be read, or does not have the format above.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not _KEYS <= set(content) <= _KEYS | _OPTIONAL:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else "no keys"
        raise InputError(
            f"{path}: expected the keys {', '.join(sorted(_KEYS))} and, if needed, "
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
    if not isinstance(study.settings.get(ITERATIONS), int):
        raise InputError(f"{path}: settings lack the number of iterations. Add {ITERATIONS}")
    named = [study.ablated] if study.ablated else []
    for parts in study.combinations.values():
        named += parts
    unknown = set(named) - set(study.candidates)
    if unknown:
        raise InputError(
            f"{path}: no method with candidates is called {', '.join(sorted(unknown))}. Add it to "
            "methods"
        )
    several = [name for name, candidates in study.candidates.items() if len(candidates) > 1]
    if several and not study.choice:
        raise InputError(
            f"{path}: {several[0]} has several candidates, but choice is missing. Add choice, or "
            "keep one candidate"
        )
    if study.choice and set(study.choice.seeds) & set(study.seeds):
        raise InputError(f"{path}: choice and seeds share a seed. Give choice other seeds")
    if not set(study.ablation_seeds) <= set(study.seeds):
        raise InputError(f"{path}: the seeds of ablations must be among seeds. Add them to seeds")
