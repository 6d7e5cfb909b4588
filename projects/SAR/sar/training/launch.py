"""The command line of train_net.py. PyTorch and detectron2 are imported only after it is parsed."""

import os
import sys
from argparse import REMAINDER, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import TYPE_CHECKING

from sar import cli

if TYPE_CHECKING:
    from detectron2.config import CfgNode

EXAMPLES = """examples:
  python %(prog)s --config-file configs/Cityscapes/sar_deeplab_v3_plus_R_50.yaml --num-gpus 8
  python %(prog)s --config-file C --eval-only MODEL.WEIGHTS output/model_final.pth
  python %(prog)s --config-file C --resume
"""
EXIT_CODES = """,
  143 told to end (SIGTERM), after a checkpoint if one could be saved,
  128 + n a process was ended by signal n"""


def argument_parser() -> ArgumentParser:
    """Return a parser with the options of detectron2's train_net.py and three more.

    These are --num-processes, --import and --quiet.

    Two defaults differ from detectron2: `num_gpus` is None (one GPU if there is one, else the CPU),
    and `dist_url` is "auto" (a free port of this machine).
    """
    parser = cli.Parser(
        prog=cli.command or None,
        description="Train and evaluate the model of a config.",
        epilog=cli.epilog(EXAMPLES, EXIT_CODES),
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="config file (.yaml)")
    add("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, do not train")
    add("--num-gpus", type=int, help="GPUs per machine (default: 1 if there is one, else the CPU)")
    add(
        "--num-processes",
        type=int,
        default=1,
        help="processes per machine on the CPU, with --num-gpus 0",
    )
    add("--num-machines", type=int, default=1, help="number of machines")
    add("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    add(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="address of machine 0, such as tcp://10.0.0.1:29500 (default: a free local port)",
    )
    cli.add_import(parser)
    add(
        "--quiet",
        action="store_true",
        help="print only warnings, errors and evaluations; OUTPUT_DIR/log.txt has everything",
    )
    add("opts", nargs=REMAINDER, metavar="KEY VALUE", help="config keys to change, last")
    return parser


def run(
    main: Callable[["CfgNode", Namespace], object],
    *,
    add_config: Callable[["CfgNode"], None] | None = None,
) -> None:
    """Parse the command line, check the input, and call `main(cfg, args)` in each process.

    `add_config` adds config keys of your own, as detectron2's projects do.

    If a process meets bad input, the program prints its message and exits with 1. If a process
    dies, the others are stopped. SIGTERM is passed on to the processes; if they exit with 143, so
    does the program. After Ctrl-C, the exit code is 130.
    """
    args = argument_parser().parse_args()
    args.add_config = add_config
    if not args.quiet and os.environ.get("RANK", "0") == "0":
        cli.note_packaged_configs(args)
    from sar.training import processes

    if {"RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= os.environ.keys():
        processes.run_under_torchrun(main, args)
        return
    hint = "" if args.eval_only else "--resume continues from the last checkpoint."
    if code := cli.exit_code(lambda: processes.prepare_and_run(main, args), hint):
        sys.exit(code)
