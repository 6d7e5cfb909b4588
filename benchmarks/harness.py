"""What the programs of this folder share: to measure ours against a peer and against a floor.

A program is a function that yields measurements, and two lines:

    from harness import Measurement, main, peak_memory, time_alternately

    def measure(device):
        seconds = time_alternately({"ours": ours, "peer": peer})
        yield Measurement("pull loss", "2x720x128x128", *(1e3 * t for t in seconds.values()))

    if __name__ == "__main__":
        main(__doc__, measure)

Ours and peer take turns in one process, so that what else the machine does hits both; medians are
compared. A floor is what no program can be under: bytes over bandwidth, or the file's decoding.
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

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler complains of a missing GPU

import torch
from tabulate import tabulate

from sar import cli
from sar.files.program_outputs import Outputs
from sar.study.environment import environment

RESULTS = "results.jsonl"
# All benchmarks add their lines to one file, so they are one program in its folder's journal.
RESULTS_PROGRAM = "benchmarks"
# A reading of a shorter time would be one of the clock and of the calls' overhead.
_SHORTEST_READING = 2e-3
_FEWEST_ROUNDS = 5
# Set by --smallest.
_is_smallest = False
Size = TypeVar("Size")


@dataclass(frozen=True)
class Growth:
    """The place of a measurement in a series of growing sizes, which is plotted.

    Attributes:
        axis: what grows, such as "classes" or "pixels"; nothing else of the size does.
        value: how many there are.
        predicted: the cost on paper, in any unit: only its growth is compared.
    """

    axis: str
    value: float
    predicted: float


@dataclass(frozen=True)
class Measurement:
    """A cost, of which less is better.

    Attributes:
        subject: what costs, such as "pull loss, time": a table for each.
        size: of the input: a row of the table.
        ours: in `unit`, as `peer` and `floor`.
        peer: what ours is compared with; None: nothing.
        floor: what none can be under; None: not known.
        unit: "ms", "MiB", ...
        growth: where it is one of a series.
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
    """Return all sizes, or with --smallest only `smallest`; by default, that of fewest elements."""
    if not _is_smallest:
        return sizes
    return [min(sizes, key=elements) if smallest is None else smallest]


def time_alternately(
    functions: Mapping[str, Callable[[], object]], seconds: float = 3.0
) -> dict[str, float]:
    """The median time of a call of each function, in seconds, with GPUs synchronised.

    Args:
        functions: by name; each is called once before, to warm up.
        seconds: about how long the whole takes; at least 5 rounds. With --smallest, one round.
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
        order.reverse()  # neither is always the one that finds the other's data in the cache
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
    """Bytes of tensors that a call adds, at most at one time, to those there before; its result is
    among them.

    Exact: on the CPU, torch's allocations are recorded one by one (what NumPy allocates is not
    seen); on a GPU it is the allocator's own maximum. A first call warms up.
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
    """Bytes read and written per second by the fastest of many copies of `num_bytes`."""
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
    """Prints a table for each subject, and adds a line a measurement to output/results.jsonl.

    Raises:
        InputError: the file cannot be written, or another program wrote it and not `overwrite`.
    """
    outputs = Outputs(output, overwrite=overwrite, program=RESULTS_PROGRAM)
    path = outputs.folder / RESULTS
    outputs.check([path])
    measurements = list(measurements)
    # What was written together is known by it; a later run replaces the whole.
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
    """A Markdown table of measurements of one subject, as dicts."""
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
    # A column that has nothing in any row is left out.
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
    """Three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.2g}"


def main(
    description: str,
    measure: Callable[[torch.device], Iterable[Measurement]],
    argv: list[str] | None = None,
) -> None:
    """A benchmark's command line: measures and reports.

    Args:
        description: the program's docstring.
        measure: yields measurements on a device.
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
    """Return where results go: those of --smallest are kept apart, since they measure nothing."""
    return args.output / "smallest" if args.smallest else args.output


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """The options that all programs have."""
    examples = f"example:\n  python benchmarks/%(prog)s {example}"
    arguments = cli.parser(description, examples, talks=False)
    arguments.add_argument(
        "--threads",
        type=cli.positive,
        metavar="N",
        default=torch.get_num_threads(),
        help="of torch on the CPU (default: %(default)s)",
    )
    arguments.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda (default: %(default)s)",
    )
    cli.add_output(
        arguments,
        "FOLDER",
        f"where {RESULTS} is, to which the results are added (default: %(default)s)",
        required=False,
        default=Path("output/benchmarks"),
    )
    arguments.add_argument(
        "--smallest",
        action="store_true",
        help="measure the smallest size once, to see that the program runs (results go to "
        "FOLDER/smallest)",
    )
    return arguments
