#!/usr/bin/env python
"""Kill a training at random moments, resume it, and compare it with an uninterrupted training.

Each trial ends train_net.py with SIGKILL and resumes it with another number of loader workers. Half
of the kills come while a checkpoint is being written. At the end, weights, optimizer and
metrics.json (without times) must equal those of the uninterrupted run, bit for bit.

With --processes 2, torchrun trains with two processes on the CPU. The drill kills one of them, and
torchrun restarts both.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

from sar import cli
from sar.data.datasets import longtail_shapes

ROOT = Path(__file__).resolve().parents[2]
ITERATIONS, CHECKPOINT_PERIOD, EVAL_PERIOD = 60, 10, 30
SMALLEST_ITERATIONS = 10
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}
LIMIT, INTERVAL = 900, 0.002  # seconds: the longest run, and between two polls


def main() -> None:
    example = "example:\n  python tests/robustness/fault_drill.py --kills 20 --seed 1"
    arguments = cli.parser(__doc__, example, talks=False)
    arguments.add_argument(
        "--kills", type=cli.positive, default=20, metavar="N", help="default: %(default)s"
    )
    arguments.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the moments")
    arguments.add_argument(
        "--processes", type=cli.positive, default=1, metavar="N", help="processes of the training"
    )
    arguments.add_argument(
        "--output",
        type=cli.path,
        metavar="FOLDER",
        help="keep the runs in a new folder here (default: a temporary folder)",
    )
    arguments.add_argument(
        "--smallest",
        action="store_true",
        help=f"one kill in {SMALLEST_ITERATIONS} iterations, to test the program",
    )
    args = arguments.parse_args()
    args.iterations = ITERATIONS
    if args.smallest:
        args.kills, args.iterations = 1, SMALLEST_ITERATIONS
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        # A new folder, because each trial removes the run of the previous trial.
        folder = tempfile.mkdtemp(prefix="fault_drill_", dir=args.output)
        print(f"Kept: {folder}", file=sys.stderr)
        sys.exit(drill(args, Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(drill(args, Path(folder)))


def drill(args: argparse.Namespace, folder: Path) -> int:
    """Run all trials and print a table. Return 1 if a trial differs from the uninterrupted run."""
    longtail_shapes.generate(folder / "data", num_images={"train": 40, "val": 10, "test": 1})
    drawn = random.Random(args.seed)
    expected = folder / "uninterrupted"
    shutil.rmtree(expected, ignore_errors=True)
    run = Run(folder, expected, args, workers=2)
    began = run.wait_for(run.has_started)
    run.finish()
    seconds = time.monotonic() - began
    rows, num_equal = [], 0
    for trial in range(args.kills):
        output = folder / "killed"
        shutil.rmtree(output, ignore_errors=True)
        run = Run(folder, output, args, workers=2)
        start = run.wait_for(run.has_started)
        if trial % 2:
            number = drawn.randint(1, args.iterations // CHECKPOINT_PERIOD)
            run.wait_for(lambda: run.num_writes >= number)  # noqa: B023
            time.sleep(drawn.uniform(0, 0.05))
        else:
            moment = drawn.uniform(0, seconds)
            run.wait_for(lambda: time.monotonic() - start > moment)  # noqa: B023
        after = time.monotonic() - start
        run.kill(drawn.randrange(args.processes))
        half_written = len(list(output.glob(".model_*")))
        last = output / "last_checkpoint"
        resumed_from = last.read_text() if last.is_file() else "the beginning"
        if args.processes == 1:
            run = Run(folder, output, args, workers=drawn.randrange(3), resume=True)
        run.finish()
        weights, metrics = same_weights(output, expected), same_metrics(output, expected)
        num_equal += weights and metrics
        rows.append([trial, after, half_written, resumed_from, weights, metrics])
        print(f"{num_equal} of {trial + 1} equal", file=sys.stderr)
    names = ["trial", "killed after (s)", "half-written files", "resumed from", "weights equal"]
    print(tabulate(rows, [*names, "metrics equal"], tablefmt="github", floatfmt=".2f"))
    print(
        f"\n{num_equal} of {args.kills} equal: {args.iterations} iterations ({seconds:.0f} s) in "
        f"{args.processes} process(es), a checkpoint every {CHECKPOINT_PERIOD}, seed {args.seed}"
    )
    return int(num_equal < args.kills)


class Run:
    """A training in the background.

    Attributes:
        num_writes: number of checkpoint writes that `wait_for` saw.
    """

    def __init__(
        self,
        folder: Path,
        output: Path,
        args: argparse.Namespace,
        *,
        workers: int,
        resume: bool = False,
    ) -> None:
        self.output = output
        self.num_writes = 0
        self._is_writing = False
        self._log = folder / f"{output.name}{'_resumed' * resume}.log"
        command = [sys.executable]
        if args.processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone", "--max-restarts=1"]
            command += [f"--nproc-per-node={args.processes}"]
        command += ["train_net.py", "--config-file", "configs/Folder/sar_ceco_sem_fpn_R_18.yaml"]
        command += ["--num-gpus", "0", *(["--resume"] if resume else [])]
        command += [
            "DATASETS.FOLDER", folder / "data", "OUTPUT_DIR", output, "SEED", 1,
            "INPUT.CROP.SIZE", "(64, 64)", "INPUT.MIN_SIZE_TRAIN", "(48, 96)",
            "SOLVER.IMS_PER_BATCH", 4, "SOLVER.BASE_LR", 0.002, "SOLVER.MAX_ITER", args.iterations,
            "SOLVER.CHECKPOINT_PERIOD", CHECKPOINT_PERIOD, "SOLVER.CHECKPOINTS_KEPT", 2,
            "TEST.EVAL_PERIOD", EVAL_PERIOD, "DATALOADER.NUM_WORKERS", workers,
            "MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE", 1e-9,
            "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": "projects/SAR", "OMP_NUM_THREADS": "1"}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=log, cwd=ROOT, env=environment
            )

    def has_started(self) -> bool:
        return "Starting training" in self._log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool]) -> float:
        """Poll until the condition holds or the run ends, and return the time."""
        limit = time.monotonic() + LIMIT
        while not condition() and self.process.poll() is None:
            if time.monotonic() > limit:
                self.process.kill()
                raise TimeoutError(f"the training hangs: see {self._log}")
            is_writing = any(self.output.glob(".model_*"))
            self.num_writes += is_writing and not self._is_writing
            self._is_writing = is_writing
            time.sleep(INTERVAL)
        return time.monotonic()

    def kill(self, rank: int) -> None:
        """Send SIGKILL to the training, or to one of torchrun's processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        workers = [
            int(child)
            for child in (children.read_text().split() if children.is_file() else [])
            if b"train_net.py" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        if b"torch.distributed.run" in b" ".join(map(os.fsencode, self.process.args)):
            if workers:  # none after the end of the run
                os.kill(workers[rank], signal.SIGKILL)
        else:
            self.process.kill()
            self.process.wait()

    def finish(self) -> None:
        """Wait for the end of the run. Exit with its log if it failed."""
        self.wait_for(lambda: False)
        if self.process.returncode:
            tail = self._log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"exit code {self.process.returncode} of the training:\n{tail}")


def same_weights(output: Path, expected: Path) -> bool:
    """Return whether weights, buffers and the optimizer's state are equal, bit for bit."""
    found, wanted = (torch.load(folder / "model_final.pth") for folder in (output, expected))
    return equal(found["model"], wanted["model"]) and equal(
        found["trainer"]["_trainer"], wanted["trainer"]["_trainer"]
    )


def equal(found: object, wanted: object) -> bool:
    """Compare nested containers of tensors."""
    if isinstance(wanted, torch.Tensor):
        return torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(equal(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(map(equal, found, wanted))
    return found == wanted


def same_metrics(output: Path, expected: Path) -> bool:
    """Return whether metrics.json has the same lines, without times."""

    def lines(folder: Path) -> list[dict]:
        rows = map(json.loads, (folder / "metrics.json").read_text().splitlines())
        return [{k: str(v) for k, v in row.items() if k not in TIMES} for row in rows]  # str: NaN

    return lines(output) == lines(expected)


if __name__ == "__main__":
    main()
