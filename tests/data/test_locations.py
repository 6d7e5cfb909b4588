"""Folders of data sets, into which programs must not write."""

import re
from pathlib import Path

from sar.data import datasets
from sar.data.locations import folders_of_data_set


def test_all_data_sets_of_the_page_are_protected():
    page = Path("datasets/README.md").read_text()
    trees = re.findall(r"(?m)^    (\w[\w.]*)/", page)
    generated = re.findall(r"(?m)^## \w+: `(longtail_\w+)_\{", page)
    expected = {Path(datasets.root(), name) for name in {*trees, *generated} - {"FOLDER"}}
    assert len(generated) == 2 and len(expected) >= 12
    assert set(folders_of_data_set("not registered")) == expected
