import math

import pytest

from sar.data.class_frequency import ClassFrequency
from sar.evaluation.table import format_table

NAMES = ["sky", "1e3", "pole"]
METRICS = {
    "mIoU": 55.0,
    "fwIoU": 70.0,
    "IoU-sky": 90.0,
    "IoU-1e3": 20.0,
    "IoU-pole": math.nan,
    "mACC": 60.0,
    "pACC": 93.456,
    "ACC-sky": 95.0,
    "ACC-1e3": 25.0,
    "ACC-pole": math.nan,
}
GROUPS = {"mIoU@f": 81.0, "mIoU@c": math.nan, "mIoU@r": 20.0, "mIoU@f_pixel": 1.0}


def rows_of(text):
    """The cells of every row, headers and ruled lines among them."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_with_class_frequency():
    frequency = ClassFrequency(
        class_names=tuple(NAMES),
        num_images=200,
        images=(100, 3, 200),
        pixels=(75_000, 20, 24_980),
        ignored_pixels=7,
    )
    text = format_table(METRICS | GROUPS, NAMES, frequency)
    rows = rows_of(text)
    assert rows[0] == ["mIoU", "mIoU@f", "mIoU@c", "mIoU@r", "fwIoU", "mACC", "pACC"]
    assert rows[2] == ["55.00", "81.00", "-", "20.00", "70.00", "60.00", "93.46"]
    assert rows[3] == ["class", "group", "train pixels %", "train images %", "IoU", "ACC"]
    assert rows[5:] == [
        ["pole", "frequent", "24.980", "100.00", "-", "-"],
        ["sky", "frequent", "75.000", "50.00", "90.00", "95.00"],
        ["1e3", "rare", "0.020", "1.50", "20.00", "25.00"],
    ]
    assert "no ground truth" in text
    assert "check_dataset" not in text


def test_without_class_frequency():
    text = format_table(METRICS, NAMES)
    rows = rows_of(text)
    assert rows[0] == ["mIoU", "fwIoU", "mACC", "pACC"]
    assert rows[3] == ["class", "IoU", "ACC"]
    assert rows[5:] == [["sky", "90.00", "95.00"], ["1e3", "20.00", "25.00"], ["pole", "-", "-"]]
    assert "tools/check_dataset.py" in text and "DATASETS.CLASS_FREQUENCY" in text


@pytest.mark.parametrize("absent", [True, False])
def test_footnote_only_where_a_class_is_absent(absent):
    metrics = METRICS if absent else METRICS | {"IoU-pole": 1.0, "ACC-pole": 1.0}
    assert ("no ground truth" in format_table(metrics, NAMES)) == absent


def test_geometry():
    numbers = {"NC1": 12.34567, "NC2_equinorm": 0.000123456, "NC3": math.nan}
    text = format_table(METRICS, NAMES, geometry=numbers)
    rows = rows_of(text)
    assert [list(numbers), ["12.35", "0.0001235", "-"]] == [rows[-3], rows[-1]]
    assert "0 is full neural collapse" in text
    assert "NC1" not in format_table(METRICS, NAMES)
