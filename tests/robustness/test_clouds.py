"""Damaged clouds are read, or refused with one message that names the file."""

import importlib.util

import numpy as np
import pytest
from hypothesis import example, given

from sar.data.clouds import CLOUD_SUFFIXES, read_cloud, read_cloud_label, write_labels
from sar.errors import InputError

from ..data.clouds.writers import write
from .damage import DAMAGES, damage

HAS_LASPY = importlib.util.find_spec("laspy") is not None
SUFFIXES = [name for name in CLOUD_SUFFIXES if HAS_LASPY or name not in (".las", ".laz")]


@pytest.mark.parametrize("suffix", SUFFIXES)
@example(how=("replaced", b"<html><body>404 Not Found</body></html>\n"))
@example(how=("truncated", 0.9))
@example(how=("zeroed", 0.3))
@given(how=DAMAGES)
def test_a_damaged_cloud(suffix, how, tmp_path):
    path = tmp_path / f"damaged{suffix}"
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    xyz = np.random.default_rng(0).normal(0, 20, (30, 3))
    labels = np.arange(30)
    write(path, xyz=xyz, color=np.full((30, 3), 200), label=labels)
    damage(path, how)
    output = tmp_path / ("output.label" if suffix == ".bin" else f"output{suffix}")
    for function, others in (
        (read_cloud, ()),
        (read_cloud_label, ()),
        (write_labels, (labels, output)),
    ):
        try:
            result = function(path, *others)
        except InputError as error:
            assert "damaged." in str(error) and len(str(error).splitlines()) == 1
            continue
        if function is read_cloud:
            assert len(result) > 0 and np.isfinite(result.xyz).all()
