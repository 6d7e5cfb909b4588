import json

import pytest

from sar.report import compare, find_runs

from .made_runs import make_run


@pytest.fixture
def words(tmp_path):
    """Two runs of a plain model and three of another, on the command line."""
    lines = [json.dumps({"iteration": i, "total_loss": 1 / (i + 1), "time": 1}) for i in range(999)]
    # Of an earlier training, which got further.
    lines = ['{"iteration": 500, "total_loss": 9}', '{"iteration": 2000, "total_loss": 9}', *lines]
    lines += [
        '{"iteration": Infinity, "total_loss": 7.0}',
        '{"iteration": 999, "total_loss": 5.0, "nan": NaN, "huge": 1%s, "sem_seg/IoU-dot": 1.0, '
        '"sem_seg/Precision-dot": 1.0, "sem_seg/ObjectRecall-dot": 1.0}' % ("0" * 400),
        '{"iter',
    ]
    make_run(tmp_path / "plain_0", (60, 40, None), lines=lines)
    make_run(tmp_path / "plain_1", (70, 50, None))
    for seed, shift in enumerate((1, 2, 6)):
        make_run(tmp_path / f"sar_{seed}", (60 + shift, 60 - shift, 10))
    return [f"plain={tmp_path}/plain_?", f"sar={tmp_path}/sar_*"]


@pytest.fixture
def content(words):
    return compare(find_runs(words), num_images=0)
