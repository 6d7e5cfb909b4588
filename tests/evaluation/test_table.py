import math

import pytest

from sar.data.class_frequency import ClassFrequency
from sar.data.units import CLOUDS
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


def test_words_of_point_clouds():
    frequency = ClassFrequency(tuple(NAMES), 200, (9, 9, 9), (75_000, 20, 24_980), 7)
    text = format_table(METRICS | GROUPS, NAMES, frequency, units=CLOUDS)
    assert "train points %" in text and "train clouds %" in text and "(9 clouds each)" in text
    assert "image" not in text and "pixel" not in text


def test_own_groups_follow_the_groups_by_frequency():
    own = {"mIoU@head": 77.0, "mIoU@tail": math.nan}
    first, _, values = rows_of(format_table(METRICS | own, NAMES, own_groups=["head", "tail"]))[:3]
    assert first == ["mIoU", "mIoU@head", "mIoU@tail", "fwIoU", "mACC", "pACC"]
    assert values[:3] == ["55.00", "77.00", "-"]


def test_ties_that_decide_the_groups_are_told():
    frequency = ClassFrequency(tuple(NAMES), 200, (9, 9, 9), (75_000, 20, 24_980), 7)
    text = format_table(METRICS | GROUPS, NAMES, frequency)
    assert [row[:2] for row in rows_of(text)[5:]] == [
        ["sky", "frequent"],
        ["pole", "frequent"],
        ["1e3", "rare"],
    ]
    (line,) = [line for line in text.splitlines() if "border" in line]
    assert "ordered by pixels" in line and "sky, pole, 1e3 (9 images each)" in line


@pytest.mark.parametrize("with_frequency", [False, True])
def test_a_name_cannot_write_to_the_terminal(with_frequency):
    name = "\x1b[2J\u202esky\n"
    metrics = {"mIoU": 1.0, f"IoU-{name}": 1.0}
    frequency = ClassFrequency((name,), 1, (1,), (1,), 0) if with_frequency else None
    text = format_table(metrics, [name], frequency)
    assert r"| \x1b[2J\u202esky\n " in text and "\x1b" not in text


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


def test_precision_and_f1_of_a_class_that_is_never_predicted():
    more = {"mPrecision": 80.0, "mF1": 70.0}
    more |= {"Precision-sky": 80.0, "Precision-1e3": math.nan, "Precision-pole": math.nan}
    more |= {"F1-sky": 70.0, "F1-1e3": 0.0, "F1-pole": math.nan}
    text = format_table(METRICS | more, NAMES)
    rows = rows_of(text)
    assert rows[0][-2:] == ["mPrecision", "mF1"] and rows[2][-2:] == ["80.00", "70.00"]
    assert rows[3] == ["class", "IoU", "ACC", "Precision", "F1"]
    assert rows[6] == ["1e3", "20.00", "25.00", "-", "0.00"]
    assert "for precision: or no prediction" in text


def test_objects_boundaries_and_the_loss():
    more = {"mBoundaryIoU": 40.0, "Loss": 0.12345, "mObjectRecall": 25.0, "mObjectRecall@r": 0.0}
    more |= {"mObjectPrecision": 10.0, "mObjectPrecision@r": math.nan}
    for metric, values in {
        "BoundaryIoU": (70, 10, math.nan),
        "ObjectRecall": (50, 0, math.nan),
        "ObjectPrecision": (10, math.nan, math.nan),
    }.items():
        more |= {f"{metric}-{name}": value for name, value in zip(NAMES, values, strict=True)}
    objects = {
        "objects": (4, 2, 0),
        "found": (2, 0, 0),
        "predicted": (20, 0, 7),
        "correct": (2, 0, 0),
    }
    frequency = ClassFrequency(tuple(NAMES), 9, (3, 1, 2), (3, 1, 2), 0)
    rows = rows_of(format_table(METRICS | more, NAMES, frequency, objects=objects))
    assert rows[0][-2:] == ["mBoundaryIoU", "Loss"] and rows[2][-2:] == ["40.00", "0.1235"]
    assert rows[3][4:] == ["IoU", "ACC", "BoundaryIoU"]
    assert rows[8:] == [
        ["mObjectRecall", "mObjectRecall@r", "mObjectPrecision", "mObjectPrecision@r"],
        rows[9],
        ["25.00", "0.00", "10.00", "-"],
        ["class", "objects", "found", "predicted", "correct", "ObjectRecall", "ObjectPrecision"],
        rows[12],
        ["sky", "4", "2", "20", "2", "50.00", "10.00"],
        ["pole", "0", "0", "7", "0", "-", "-"],
        ["1e3", "2", "0", "0", "0", "0.00", "-"],
    ]


def test_geometry():
    numbers = {"NC1": 12.34567, "NC2_equinorm": 0.000123456, "NC3": math.nan}
    text = format_table(METRICS, NAMES, geometry=numbers)
    rows = rows_of(text)
    assert [list(numbers), ["12.35", "0.0001235", "-"]] == [rows[-3], rows[-1]]
    assert "0 is full neural collapse" in text
    assert "NC1" not in format_table(METRICS, NAMES)
