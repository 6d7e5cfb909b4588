"""Set up a process: its log and its random generators.

The log has no file before the run has started (`log_to_file`). So a run that fails in its set-up
changes nothing in OUTPUT_DIR. Earlier lines are kept in memory.
"""

import logging
import sys
from argparse import Namespace
from pathlib import Path

import torch

from sar.cli import printable_record
from sar.files.run_folder import LOG
from sar.training.log_stream import fail_once
from sar.training.summary import describe_versions

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

logger = logging.getLogger(__name__)

_LOGGERS = ("sar", "fvcore", "detectron2")
# Loggers whose messages the console shows, without detectron2's list of layers and the like.
_SHOWN = (
    "sar.",
    "detectron2.utils.events",
    "detectron2.engine.hooks",
    "detectron2.evaluation.",
)
_FORMAT = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")


class _KeptLines(logging.Handler):
    """Keep formatted lines until there is a file for them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(_FORMAT)
        self.addFilter(printable_record)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def log_to_console(args: Namespace, rank: int = 0, names: tuple[str, ...] = _LOGGERS) -> None:
    """Send the named loggers to the console, in rank 0, and keep their lines for `log_to_file`.

    Args:
        args: with `quiet` (optional), the console shows only warnings and evaluations.
        rank: rank of this process; before there are several, of the first on this machine.
    """
    kept = _find_kept()
    if kept is None:
        kept = _KeptLines()
        _close_files()
    for name in names:
        target = setup_logger(None, distributed_rank=rank, name=name)
        if kept not in target.handlers:
            target.addHandler(kept)
        for handler in target.handlers:
            if getattr(handler, "stream", None) is sys.stdout:
                fail_once(handler)
                handler.setLevel(logging.INFO)
                handler.addFilter(printable_record)
                handler.addFilter(_matters if getattr(args, "quiet", False) else _is_for_console)


def kept_lines() -> list[str]:
    """Return the lines of the log while it has no file; empty afterwards."""
    kept = _find_kept()
    return kept.lines if kept else []


def log_to_file(folder: str | Path) -> None:
    """Write the log of this process to `folder`/log.txt, the kept lines first.

    Does nothing if the process has not called `log_to_console`, or if its log has a file already.
    """
    kept = _find_kept()
    if kept is None:
        return
    name = LOG if comm.get_rank() == 0 else f"{LOG}.rank{comm.get_rank()}"
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(Path(folder, name), encoding="utf-8")
    file.setFormatter(_FORMAT)
    file.addFilter(printable_record)
    fail_once(file)
    file.stream.writelines(f"{line}\n" for line in kept.lines)
    file.flush()
    for target in map(logging.getLogger, _LOGGERS):
        if kept in target.handlers:
            target.removeHandler(kept)
            target.addHandler(file)


def _close_files() -> None:
    """Close the log files of an earlier run in this process."""
    for target in map(logging.getLogger, _LOGGERS):
        for handler in [h for h in target.handlers if isinstance(h, logging.FileHandler)]:
            target.removeHandler(handler)
            handler.close()


def _find_kept() -> _KeptLines | None:
    handlers = logging.getLogger(_LOGGERS[0]).handlers
    return next((handler for handler in handlers if isinstance(handler, _KeptLines)), None)


def _matters(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name == "sar.evaluation.evaluator"


def _is_for_console(record: logging.LogRecord) -> bool:
    """Return whether the console shows a message; log.txt has them all."""
    return record.levelno >= logging.WARNING or record.name.startswith(_SHOWN)


def set_up_process(cfg: CfgNode, args: Namespace) -> None:
    """Set up log and seeds like detectron2's `default_setup`, but without writing a file.

    Args:
        args: `log_lines` (optional) are the kept lines of the launching process.
    """
    rank = comm.get_rank()
    log_to_console(args, rank)
    log_lines = vars(args).pop("log_lines", [])
    if rank == 0:
        kept_lines()[:0] = log_lines
    logger.info(describe_versions())
    # DEBUG: for log.txt, not for the console.
    logger.debug(f"Process {rank} of {comm.get_world_size()}\n{collect_env_info()}")
    logger.debug(f"Command line: {args}")
    logger.debug(f"Config:\n{cfg.dump()}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
