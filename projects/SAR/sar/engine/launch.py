"""From the command line to the processes that train, and from bad input to one clear message."""

import sys
from argparse import Namespace
from collections.abc import Callable

from torch.multiprocessing import ProcessExitedException

from sar.data.datasets.folder import register_folder
from sar.errors import InputError

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.engine import launch as launch_processes
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from .prepare import prepare


def run(main: Callable[[CfgNode, Namespace], object]) -> None:
    """Parses detectron2's command line, checks the input, and calls `main(cfg, args)` per GPU.

    Bad input ends the program with its message and exit code 1.
    """
    args = default_argument_parser().parse_args()
    try:
        cfg = prepare(args)
    except InputError as error:
        sys.exit(f"error: {error}")
    try:
        launch_processes(
            _run_process,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, cfg, args),
        )
    except ProcessExitedException as error:  # the process has said why
        sys.exit(error.exit_code)


def _run_process(main: Callable, cfg: CfgNode, args: Namespace) -> None:
    try:
        if cfg.DATASETS.FOLDER:  # detectron2's catalog is one of each process
            register_folder(cfg.DATASETS.FOLDER)
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="sar")
        default_setup(cfg, args)
        main(cfg, args)
    except InputError as error:
        sys.exit(f"error: {error}")
