"""What each process does first: where it logs to, and with which random numbers it starts."""

import logging
import sys
from argparse import Namespace

import torch

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from .log_stream import fail_once

logger = logging.getLogger(__name__)


def log_to(output: str, rank: int, name: str, args: Namespace) -> None:
    """detectron2's `setup_logger`; --quiet keeps most from the console, and nothing from the file.

    Args:
        args: not all programs that train have --quiet.
    """
    for handler in setup_logger(output, distributed_rank=rank, name=name).handlers:
        if isinstance(handler, logging.StreamHandler):
            fail_once(handler)
        if getattr(args, "quiet", False) and getattr(handler, "stream", None) is sys.stdout:
            handler.addFilter(_matters)


def _matters(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name == "sar.evaluation.evaluator"


def set_up_process(cfg: CfgNode, args: Namespace) -> None:
    """As detectron2's `default_setup`, but that it leaves OUTPUT_DIR/config.yaml alone.

    That file says what OUTPUT_DIR was trained with: a training writes it once it has loaded what it
    starts from, and a run that cannot start, or an evaluation, does not.
    """
    rank = comm.get_rank()
    for name in ("sar", "fvcore", "detectron2"):
        log_to(cfg.OUTPUT_DIR, rank, name, args)
    logger.info(f"Process {rank} of {comm.get_world_size()}\n{collect_env_info()}")
    logger.info(f"Command line: {args}")
    logger.info(f"Config:\n{cfg.dump()}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
