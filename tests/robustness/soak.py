#!/usr/bin/env python
"""Check that a long training does not need more and more memory or open files.

Trains a tiny model with checkpoints and evaluations, in one process on the CPU. Reports the
resident memory and the number of open files over the iterations. Then evaluates few and many images
and reports the peak memory of both.
"""

import logging
import os
import re
import tempfile
from argparse import Namespace
from pathlib import Path

import torch
from tabulate import tabulate

from sar import cli
from sar.data.datasets import longtail_shapes
from sar.preflight.prepare import prepare
from sar.training.launch import argument_parser
from sar.training.trainer import Trainer

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.train_loop import HookBase

CONFIG = Path(__file__).resolve().parents[2] / "configs/Folder/sar_ceco_sem_fpn_R_18.yaml"
FEW, MANY = 20, 2000
SMALLEST_ITERATIONS, SMALLEST_MANY = 10, 40


def main() -> None:
    example = "example:\n  python tests/robustness/soak.py --iterations 2000"
    arguments = cli.parser(__doc__, example, talks=False)
    arguments.add_argument(
        "--iterations", type=cli.positive, default=2000, metavar="N", help="default: %(default)s"
    )
    arguments.add_argument("--seed", type=int, default=0, metavar="N", help="SEED of the training")
    arguments.add_argument(
        "--smallest",
        action="store_true",
        help=f"{SMALLEST_ITERATIONS} iterations and {SMALLEST_MANY} images, to test the program",
    )
    args = arguments.parse_args()
    args.many = MANY
    if args.smallest:
        args.iterations, args.many = SMALLEST_ITERATIONS, SMALLEST_MANY
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        longtail_shapes.generate(
            Path(folder, "data"), num_images={"train": 40, "val": FEW, "test": 1}
        )
        cfg = config(Path(folder), args)
        logging.disable(logging.WARNING)
        trainer, rows = train(cfg, period=args.iterations // 10)
        print(
            tabulate(
                rows,
                ["iteration", "resident (MiB)", "relative to the first", "open files"],
                "github",
            )
        )
        rows = evaluate(cfg, trainer, args.many)
        print()
        print(tabulate(rows, ["images evaluated", "peak (MiB)", "relative to the first"], "github"))
    print(f"\n{args.iterations} iterations, seed {args.seed}, torch {torch.__version__}")


def config(folder: Path, args: Namespace) -> CfgNode:
    """Return the config of a training with about 0.1 seconds per iteration."""
    tenth = args.iterations // 10
    words = [
        "DATASETS.FOLDER", folder / "data", "OUTPUT_DIR", folder / "output", "SEED", args.seed,
        "INPUT.CROP.SIZE", "(32, 32)", "INPUT.MIN_SIZE_TRAIN", "(32, 64)",
        "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.001,
        "SOLVER.MAX_ITER", args.iterations, "SOLVER.CHECKPOINT_PERIOD", 2 * tenth,
        "TEST.EVAL_PERIOD", 2 * tenth, "SOLVER.CHECKPOINTS_KEPT", 2,
        "DATALOADER.NUM_WORKERS", 1, "MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE", 1e-9,
        "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16,
    ]  # fmt: skip
    command = ["--config-file", str(CONFIG), "--num-gpus", "0", *map(str, words)]
    prepared = prepare(argument_parser().parse_args(command))
    prepared.register()
    return prepared.cfg


class Look(HookBase):
    """Record memory and open files every `period` iterations."""

    def __init__(self, period: int) -> None:
        self.period = period
        self.rows: list[list] = []

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period == 0:
            memory = status("VmRSS")
            first = self.rows[0][1] if self.rows else memory
            files = len(os.listdir("/proc/self/fd"))
            self.rows.append([self.trainer.iter + 1, memory, f"{memory / first:.3f}", files])


def train(cfg: CfgNode, period: int) -> tuple[Trainer, list[list]]:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    look = Look(period)
    trainer.register_hooks([look])
    trainer.train()
    return trainer, look.rows


def evaluate(cfg: CfgNode, trainer: Trainer, many: int) -> list[list]:
    """Evaluate few and many images, after a warm-up, and return the peaks of resident memory."""
    (name,) = cfg.DATASETS.TEST
    records = DatasetCatalog.get(name)
    rows = []
    for count in (FEW, FEW, many):
        repeated = f"soak_{len(rows)}_{count}"
        DatasetCatalog.register(repeated, lambda count=count: (records * count)[:count])
        metadata = MetadataCatalog.get(name).as_dict() | {"name": repeated}
        MetadataCatalog.get(repeated).set(**metadata)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TEST = (repeated,)
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        trainer.test(cfg, trainer.model)
        rows.append([count, status("VmHWM")])
    return [[count, peak, f"{peak / rows[1][1]:.3f}"] for count, peak in rows[1:]]


def status(name: str) -> float:
    """Return a memory size of this process in MiB."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


if __name__ == "__main__":
    main()
