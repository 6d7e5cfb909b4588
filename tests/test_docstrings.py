"""The examples in docstrings run and give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

PACKAGE = Path("projects/SAR/sar")
MODULES = sorted(
    ".".join(("sar", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    torch.manual_seed(0)
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0 and failed == 0
