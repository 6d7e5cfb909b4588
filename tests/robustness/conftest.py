"""Profiles of Hypothesis, the folder that examples damage, and the summary of all cases.

`pytest tests/robustness --hypothesis-profile long` tries many more examples.
"""

import shutil
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, settings

from .case import Case, counts, write_inputs

_COMMON = {
    "deadline": None,
    "database": None,
    "phases": [Phase.explicit, Phase.generate, Phase.shrink],
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("short", max_examples=4, derandomize=True, **_COMMON)
settings.register_profile("long", max_examples=60, derandomize=False, **_COMMON)
# Otherwise Hypothesis chooses one of its own, which depends on the environment (CI).
settings.load_profile("short")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture
def case(inputs, tmp_path, request):
    """Return a context manager: a copy of the inputs, which it removes at the end."""

    @contextmanager
    def copied():
        folder = tmp_path / "case"
        shutil.copytree(inputs, folder)
        try:
            yield Case(folder, request.path.name)
        finally:
            shutil.rmtree(folder)

    return copied


def pytest_terminal_summary(terminalreporter):
    if not counts:
        return
    terminalreporter.section("bad input: what the programs did")
    columns = ("cases", "refused", "right", "failures")
    rows = [(name, *(count[column] for column in columns)) for name, count in counts.items()]
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 5))))
    for name, *numbers in [("file", *columns), *rows]:
        terminalreporter.line(f"{name:24}" + "".join(f"{number:>10}" for number in numbers))
