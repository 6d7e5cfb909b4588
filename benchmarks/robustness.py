#!/usr/bin/env python
"""Throws bad input at the command-line programs, and counts what becomes of it.

Configs, overrides, options, class files, label maps, images, folder trees, checkpoints, class
frequencies and output folders are spoilt one at a time, by rules and by chance (--seed). A program
has to end in time, and either refuse with one message that names what is at fault, leaving
OUTPUT_DIR as it was; or accept and be right: a training ends with finite weights and metrics (those
of the good input, bit for bit, where the change is harmless), counts are those of a second count,
and so on. A traceback, a signal, a hang, an executed exploit or changed input is a failure.
"""

import argparse
import json
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from robustness.case import ACCEPTED, MUTATIONS, REFUSED, Case, Mutation
from robustness.processes import import_all, run_program
from tabulate import tabulate

from sar.cli import add_output, exit_code, parser, positive
from sar.files.program_outputs import Outputs

EXAMPLES = """examples:
  python benchmarks/robustness.py --output output/robustness
  python benchmarks/robustness.py --only "train/label map" --keep
"""
TIMEOUT = 60  # seconds; most take one


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, EXAMPLES, talks=False)
    arguments.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    arguments.add_argument("--only", default="", metavar="TEXT", help="cases of such a name only")
    arguments.add_argument(
        "--every", type=positive, default=1, metavar="N", help="each Nth of these only"
    )
    arguments.add_argument(
        "--smallest", action="store_true", help="the first case only, to see that the program runs"
    )
    arguments.add_argument("--keep", action="store_true", help="keep the folders of failed cases")
    add_output(
        arguments,
        "FOLDER",
        "where robustness.jsonl is written, a line a case (default: %(default)s)",
        required=False,
        default=Path("output/robustness"),
    )
    args = arguments.parse_args(argv)
    import_all()
    cases = [case for case in all_cases() if args.only in case[0]][:: args.every]
    cases = cases[:1] if args.smallest else cases
    if not cases:
        arguments.error(f'no case has "{args.only}" in its name')
    return exit_code(lambda: run(cases, args))


def run(cases: list, args: argparse.Namespace) -> int:
    """Runs the cases and prints the table; 1 if one failed."""
    outputs = Outputs(args.output, overwrite=args.overwrite)
    results = run_cases(cases, args.seed, outputs, keep=args.keep)
    print(table(results))
    print(f"seed {args.seed}; all cases: {args.output / 'robustness.jsonl'}")
    return int(any(result["verdict"] == "failed" for result in results))


def all_cases() -> list[tuple[str, str, Mutation]]:
    """Name, program and mutation of each case; no two have the same name."""
    from robustness import configs, data, files, runs  # noqa: F401  which register mutations

    cases = []
    for mutation in MUTATIONS:
        for program in mutation.programs:
            for repeat in range(mutation.repeats):
                name = f"{program}/{mutation.kind}/{mutation.name}"
                name += f" #{repeat}" if mutation.repeats > 1 else ""
                cases.append((name, program, mutation))
    return cases


def run_cases(cases: list, seed: int, outputs: Outputs, *, keep: bool = False) -> list[dict]:
    """Runs the cases one after the other; the results, also as lines of robustness.jsonl."""
    output = outputs.folder
    path = output / "robustness.jsonl"
    outputs.check([path])
    output.mkdir(parents=True, exist_ok=True)
    # Not a TemporaryDirectory: each fork would remove it when it ends.
    scratch = Path(tempfile.mkdtemp(dir=output)).resolve()
    results = []
    try:
        with outputs.writing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for result in _run_cases(cases, seed, scratch, output if keep else None):
                results.append(result)
                file.write(json.dumps(result) + "\n")
                file.flush()
                if result["verdict"] == "failed":
                    print(f"FAILED {result['case']}: {result['reason']}", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return results


def _run_cases(cases: list, seed: int, scratch: Path, keep: Path | None) -> Iterator[dict]:
    from robustness.judge import judge
    from robustness.sandbox import PROGRAMS, Sandbox, digests

    sandbox = Sandbox(scratch / "sandbox")
    for name, program, mutation in cases:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        case = Case(program, sandbox.copy(), rng)
        mutation.apply(case)
        path, words = PROGRAMS[program]
        before = digests(case.folder)
        words = case.command_line if case.command_line is not None else [*words, *case.words]
        with case.locked():
            outcome = run_program(
                path, words, case.folder, timeout=TIMEOUT, obeys_rights=bool(case.rights)
            )
        verdict, reason = judge(case, mutation, outcome, before, sandbox)
        yield {
            "case": name,
            "seed": seed,
            "program": program,
            "kind": mutation.kind,
            "command": [path, *words],
            "expected": mutation.expected,
            "verdict": verdict,
            "reason": reason,
            "exit_code": outcome.code,
            "seconds": round(outcome.seconds, 2),
        }
        if keep and verdict == "failed":
            kept = tempfile.mkdtemp(prefix=f"{name.replace('/', '.')}_", dir=keep)
            case.folder.rename(kept)  # a copy could not be made of a pipe
        else:
            shutil.rmtree(case.folder)


def table(results: list[dict]) -> str:
    """Cases by program and kind of input, in Markdown."""
    counts: dict[tuple[str, str], Counter] = {}
    for result in results:
        for key in (("all", ""), (result["program"], result["kind"])):
            counts.setdefault(key, Counter())[result["verdict"]] += 1
    rows = [
        (program, kind, sum(count.values()), count[REFUSED], count[ACCEPTED], count["failed"])
        for (program, kind), count in sorted(counts.items(), key=lambda item: item[0])
    ]
    headers = ("program", "input", "cases", "refused, clearly", "accepted, rightly", "failures")
    return tabulate(rows, headers, tablefmt="pipe")


if __name__ == "__main__":
    sys.exit(main())
