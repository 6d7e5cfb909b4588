"""Measure the cost of our code against a peer and a floor; the other programs here use this module.

A program is a function that yields measurements, and a call of `main`:

    from harness import Measurement, main, peak_memory, time_alternately

    def measure(device):
        seconds = time_alternately({"ours": ours, "peer": peer})
        yield Measurement("pull loss", "2x720x128x128", *(1e3 * t for t in seconds.values()))

    if __name__ == "__main__":
        main(__doc__, measure)

Our code and the peer take turns in one process, so that other work of the machine affects both. The
medians are compared. A floor is a lower bound for any program, such as bytes divided by bandwidth,
or the time to decode the file.
"""

import argparse
import gc
import json
import math
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler warns about a missing GPU

import torch
from tabulate import tabulate

from sar import cli
from sar.files.program_outputs import Outputs
from sar.study.environment import environment

RESULTS = "results.jsonl"
# All benchmarks add lines to one file, so the journal of its folder lists them as one program.
RESULTS_PROGRAM = "benchmarks"
# A shorter time would mostly measure the clock and the overhead of the calls.
_SHORTEST_READING = 2e-3
_FEWEST_ROUNDS = 5
# Set by --smallest.
_is_smallest = False
Size = TypeVar("Size")


@dataclass(frozen=True)
class Growth:
    """The place of a measurement in a series of growing sizes, which is plotted.

    Attributes:
        axis: the part of the size that grows, such as "classes" or "pixels".
        value: the number of them.
        predicted: the cost on paper, in any unit: only its growth is compared.
    """

    axis: str
    value: float
    predicted: float


@dataclass(frozen=True)
class Measurement:
    """A measured cost; lower is better.

    Attributes:
        subject: the thing that is measured, such as "pull loss, time"; each subject has a table.
        size: the size of the input; each size is a row of the table.
        ours: the cost of our code, in `unit` like `peer` and `floor`.
        peer: the cost of the other code; None without a comparison.
        floor: a lower bound for any program; None if not known.
        unit: "ms", "MiB", ...
        growth: the place in a series, if the measurement is part of a series.
    """

    subject: str
    size: str
    ours: float
    peer: float | None = None
    floor: float | None = None
    unit: str = "ms"
    growth: Growth | None = None


def chosen(
    sizes: Sequence[Size],
    elements: Callable[[Size], float] = math.prod,
    smallest: Size | None = None,
) -> Sequence[Size]:
    """Return all sizes. With --smallest, only return `smallest` (default: the fewest elements)."""
    if not _is_smallest:
        return sizes
    return [min(sizes, key=elements) if smallest is None else smallest]


def time_alternately(
    functions: Mapping[str, Callable[[], object]], seconds: float = 3.0
) -> dict[str, float]:
    """Return the median time of a call of each function, in seconds, with GPUs synchronised.

    Args:
        functions: the functions by name. Each one is called once before, to warm up.
        seconds: approximate time for all functions; at least 5 rounds. With --smallest, one round.
    """
    fewest_rounds = 1 if _is_smallest else _FEWEST_ROUNDS
    calls = {name: _calls_of_a_reading(function) for name, function in functions.items()}
    readings: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    gc.collect()
    end = time.perf_counter() + (0 if _is_smallest else seconds)
    rounds = 0
    while rounds < fewest_rounds or time.perf_counter() < end:
        for name in order:
            readings[name].append(_read(functions[name], calls[name]))
        order.reverse()  # so that no function always runs with the data of another in the cache
        rounds += 1
    return {name: statistics.median(values) for name, values in readings.items()}


def _calls_of_a_reading(function: Callable[[], object]) -> int:
    if _is_smallest:
        return 1
    _read(function, 1)
    return max(1, round(_SHORTEST_READING / max(_read(function, 1), 1e-9)))


def _read(function: Callable[[], object], calls: int) -> float:
    _synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    _synchronize()
    return (time.perf_counter() - start) / calls


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(function: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Return the peak memory of tensors that a call allocates, in bytes, including its result.

    The number is exact. On the CPU, each allocation of torch is recorded, but no allocation of
    NumPy. On a GPU, it is the maximum of the allocator. A first call warms up.
    """
    if not _is_smallest:
        function()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        function()
    events = profile.profiler.kineto_results.events()
    events = [event for event in events if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@lru_cache
def bandwidth(device: torch.device | str = "cpu", num_bytes: int = 2**28) -> float:
    """Return the bytes read and written per second, for the fastest of 20 copies of `num_bytes`."""
    if _is_smallest:
        num_bytes = min(num_bytes, 2**20)
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    calls = _calls_of_a_reading(lambda: target.copy_(source))
    return 2 * num_bytes / min(_read(lambda: target.copy_(source), calls) for _ in range(20))


def report(
    measurements: Iterable[Measurement],
    output: str | os.PathLike,
    device: torch.device | str,
    *,
    overwrite: bool = False,
) -> None:
    """Print a table for each subject, and add a line per measurement to output/results.jsonl.

    Raises:
        InputError: the file cannot be written, or another program wrote it and `overwrite` is
            False.
    """
    outputs = Outputs(output, overwrite=overwrite, program=RESULTS_PROGRAM)
    path = outputs.folder / RESULTS
    outputs.check([path])
    measurements = list(measurements)
    # `run` marks lines that were written together: a later run replaces all of them.
    common = {"program": Path(sys.argv[0]).name, "run": uuid.uuid4().hex, **environment(device)}
    lines = [json.dumps(common | asdict(measurement)) + "\n" for measurement in measurements]
    before = path.read_text() if path.exists() else ""
    with outputs.writing(path) as temporary:
        temporary.write_text(before + "".join(lines))
    print(f"{common['device']}, {common['threads']} thread(s); {common['versions']}\n")
    for subject in dict.fromkeys(measurement.subject for measurement in measurements):
        rows = [asdict(each) for each in measurements if each.subject == subject]
        print(f"{subject}\n\n{table(rows)}\n")


def table(rows: list[dict]) -> str:
    """Return a Markdown table of the measurements of one subject, given as dicts."""
    headers = ["size", "ours", "peer", "peer / ours", "floor", "ours / floor"]
    cells = [
        [
            row["size"],
            _cell(row["ours"], row["unit"]),
            _cell(row["peer"], row["unit"]),
            _ratio(row["peer"], row["ours"]),
            _cell(row["floor"], row["unit"]),
            _ratio(row["ours"], row["floor"]),
        ]
        for row in rows
    ]
    # Leave out columns that are empty in all rows.
    kept = [i for i in range(len(headers)) if i == 0 or any(row[i] for row in cells)]
    return tabulate(
        [[row[i] for i in kept] for row in cells],
        [headers[i] for i in kept],
        tablefmt="pipe",
        colalign=["left"] + ["right"] * (len(kept) - 1),
        disable_numparse=True,
    )


def _cell(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}"


def _ratio(numerator: float | None, denominator: float | None) -> str:
    if numerator is None or denominator is None:
        return ""
    return number(numerator / denominator) if denominator else "-"


def number(value: float) -> str:
    """Format a number with three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.2g}"


def main(
    description: str,
    measure: Callable[[torch.device], Iterable[Measurement]],
    argv: list[str] | None = None,
) -> None:
    """Run a benchmark from the command line: measure, print and save.

    Args:
        description: the docstring of the program.
        measure: yields the measurements on a device.
    """
    global _is_smallest
    args = parser(description, example="--threads 2").parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    _is_smallest = args.smallest
    folder = output_folder(args)
    code = cli.exit_code(lambda: report(measure(device), folder, device, overwrite=args.overwrite))
    if code:
        sys.exit(code)


def output_folder(args: argparse.Namespace) -> Path:
    """Return the folder for results. Results of --smallest get their own: they measure nothing."""
    return args.output / "smallest" if args.smallest else args.output


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all programs share."""
    examples = f"example:\n  python benchmarks/%(prog)s {example}"
    arguments = cli.parser(description, examples, talks=False)
    arguments.add_argument(
        "--threads",
        type=cli.positive,
        metavar="N",
        default=torch.get_num_threads(),
        help="threads of torch on the CPU (default: %(default)s)",
    )
    arguments.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda (default: %(default)s)",
    )
    cli.add_output(
        arguments,
        "FOLDER",
        f"folder of {RESULTS}; new results are added to this file (default: %(default)s)",
        required=False,
        default=Path("output/benchmarks"),
    )
    arguments.add_argument(
        "--smallest",
        action="store_true",
        help="only measure the smallest size once, to check that the program runs; results go to "
        "FOLDER/smallest",
    )
    return arguments
