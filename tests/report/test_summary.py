from sar.report.summary import format_summary


def numbers(mean, difference=0.0):
    return {"mean": mean, "spread": None, "difference": difference}


def content(*, is_ordered=True):
    names = ("sky", "car", "pole")
    summaries = (
        {"mIoU": 50.0, "mIoU@f": None, "IoU-sky": 90.0, "IoU-car": 50.0, "IoU-pole": 0.04},
        {"mIoU": 52.25, "mIoU@f": None, "IoU-sky": 88.0, "IoU-car": 50.0, "IoU-pole": 12.0},
    )
    plain = summaries[0]
    methods = []
    for name, summary in zip(("plain", "SAR\x1b"), summaries, strict=True):
        cells = {
            key: numbers(value, None if value is None else value - plain[key])
            for key, value in summary.items()
        }
        methods.append({"name": name, "num_runs": 2, "summary": cells})
    return {
        "classes": [{"name": name} for name in names],
        "order": [0, 2, 1],
        "is_ordered": is_ordered,
        "metrics": ["mIoU", "mIoU@f", "pACC", "NC1"],
        "methods": methods,
    }


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_means_differences_and_the_rarest_classes():
    header, _, plain, other = cells(format_summary(content()))
    assert header == ["method", "runs", "mIoU", "mIoU@f", "IoU car", "IoU pole", "IoU sky"]
    assert plain == ["plain", "2", "50.0", "-", "50.0", "0.0", "90.0"]
    assert other == [
        "SAR\\x1b",
        "2",
        "52.2 (+2.2)",
        "-",
        "50.0 (+0.0)",
        "12.0 (+12.0)",
        "88.0 (-2.0)",
    ]


def test_without_counts_no_class_is_rare():
    header = cells(format_summary(content(is_ordered=False)))[0]
    assert header == ["method", "runs", "mIoU", "mIoU@f"]
