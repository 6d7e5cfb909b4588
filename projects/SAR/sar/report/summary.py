"""Format the comparison of methods as a table for the console."""

from collections.abc import Mapping

from sar.errors import printable
from sar.evaluation.table import HEADLINE, grid

# Number of rare classes whose IoU is in the table.
_NUM_RARE = 3


def format_summary(content: Mapping) -> str:
    """Return a table with one row for each method: means, and differences to the first method.

    The columns are the means over all classes and over the class groups, and the IoU of the rarest
    classes. With several runs of a method, the numbers are means over its runs.

    Args:
        content: the result of `sar.report.compare`.
    """
    classes, order = content["classes"], content["order"]
    rarest = [classes[k]["name"] for k in order[::-1][:_NUM_RARE]] if content["is_ordered"] else []
    columns = [name for name in HEADLINE if name.startswith("mIoU")]
    columns = [name for name in columns if name in content["metrics"]]
    columns += [f"IoU-{name}" for name in rarest]
    rows = []
    for number, method in enumerate(content["methods"]):
        cells = [_cell(method["summary"][name], with_difference=number > 0) for name in columns]
        rows.append([printable(method["name"]), str(method["num_runs"]), *cells])
    headers = ["method", "runs", *(printable(name.replace("IoU-", "IoU ")) for name in columns)]
    return grid(rows, headers)


def _cell(numbers: Mapping, *, with_difference: bool) -> str:
    if numbers["mean"] is None:
        return "-"
    difference = numbers["difference"]
    shown = f" ({difference:+.1f})" if with_difference and difference is not None else ""
    return f"{numbers['mean']:.1f}{shown}"
