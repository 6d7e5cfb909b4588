"""A case: a program, a copy of the sandbox, and what was spoilt in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
        names: an error message is clear if it has one of these, as a whole: the file or the key at
            fault, the key with all its groups.
        command_line: replaces the program's words.
        rights: of files and folders while the program runs, which then has no right of root to read
            and write every file. Before and after, they have those that they were made with.
    """

    program: str
    folder: Path
    rng: np.random.Generator
    words: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    command_line: Sequence[str] | None = None
    rights: dict[Path, int] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """A file of the copy, which is to be named if the program refuses it."""
        self.names.append(Path(name).name)
        return self.folder / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Sets `rights`, and takes them back."""
        before = {path: path.stat().st_mode for path in self.rights}
        try:
            for path, mode in self.rights.items():
                path.chmod(mode)
            yield
        finally:
            for path, mode in before.items():
                if path.exists():
                    path.chmod(mode)


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
