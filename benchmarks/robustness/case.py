"""A case: a program, a copy of the sandbox, and what was spoilt in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

REFUSED, ACCEPTED, EITHER = "refused", "accepted", "either"


@dataclass
class Case:
    """What a mutation may change, and what it says of its change.

    Attributes:
        program: a key of PROGRAMS.
        folder: a copy of the sandbox, which is the program's working directory.
        rng: all that is random comes from it.
        words: added to the command line.
        names: an error message is clear if it has one of these: the file or the key at fault.
        command_line: replaces the program's words.
        obeys_rights: run without the right of root to read and write every file.
    """

    program: str
    folder: Path
    rng: np.random.Generator
    words: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    command_line: Sequence[str] | None = None
    obeys_rights: bool = False

    def path(self, name: str) -> Path:
        """A file of the copy, which is to be named if the program refuses it."""
        self.names.append(Path(name).name)
        return self.folder / name


@dataclass(frozen=True)
class Mutation:
    """A way to spoil the input.

    Attributes:
        kind: of the input, a row of the table.
        name: of the mutation.
        programs: which it is tried on.
        expected: REFUSED, ACCEPTED (with the result of the good input) or EITHER.
        repeats: number of cases per program, where chance has a part in it.
        apply: spoils the copy.
    """

    kind: str
    name: str
    programs: tuple[str, ...]
    expected: str
    repeats: int
    apply: Callable[[Case], None]


MUTATIONS: list[Mutation] = []


def mutation(kind: str, *programs: str, expected: str = REFUSED, repeats: int = 1, name: str = ""):
    """Registers a function that spoils a Case."""

    def register(apply: Callable[[Case], None]) -> Callable[[Case], None]:
        title = name or apply.__name__.strip("_").replace("_", " ")
        MUTATIONS.append(Mutation(kind, title, programs, expected, repeats, apply))
        return apply

    return register
