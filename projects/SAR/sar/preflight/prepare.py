"""Before a run: complete the config, check it and the data sets, and count the classes.

This happens once, in the process that the user started, so that an error is printed only once.
"""

import os
from argparse import Namespace
from dataclasses import dataclass

from torch import nn

from sar.checkpoints.checkpointer import Checkpointer
from sar.config import load_config, sets_key
from sar.data.class_frequency import ClassFrequency, note_class_frequency
from sar.data.datasets.folder import choose_splits, register_folder
from sar.files import lock
from sar.files.disk import writing_to
from sar.files.run_folder import LAST_CHECKPOINT
from sar.modeling.regularizer_registry import check_anchors
from sar.preflight.checks import (
    check_batch,
    check_config,
    check_datasets,
    check_output_dir,
    warn_of_long_warmup,
)
from sar.preflight.class_counts import count_classes
from sar.preflight.device import check_processes, choose_device

from detectron2.config import CfgNode


@dataclass(frozen=True)
class Prepared:
    """What all processes of a run need.

    Attributes:
        cfg: complete, checked and frozen.
        class_frequency: counts of the training set; None if they are unknown.
    """

    cfg: CfgNode
    class_frequency: ClassFrequency | None

    def register(self) -> None:
        """Make DATASETS.FOLDER and the counts known in this process, whose catalogs are its own."""
        if self.cfg.DATASETS.FOLDER:
            register_folder(self.cfg.DATASETS.FOLDER)
        note_class_frequency(self.cfg, self.class_frequency)


def prepare(args: Namespace) -> Prepared:
    """Prepare a run.

    A training locks OUTPUT_DIR for this process until `lock.release`. Nothing else is written
    there.

    Args:
        args: from `argument_parser`. `num_gpus` and `num_processes` become the numbers that the
            run uses on this machine.

    Raises:
        InputError: a problem in the config, the output folder or the data sets; MODEL.WEIGHTS is
            missing.
    """
    trains = not args.eval_only
    check_processes(args)
    cfg = load_config(args.config_file, args.opts)
    with writing_to(cfg.OUTPUT_DIR):
        check_output_dir(cfg, trains=trains)
        if trains and args.machine_rank == 0:
            lock.hold(cfg.OUTPUT_DIR)
        args.num_gpus, args.num_processes = choose_device(
            cfg, args.num_gpus, args.num_processes, args.num_machines
        )
        complete_config(
            cfg, trains=trains, test_is_set=sets_key("DATASETS.TEST", args.config_file, args.opts)
        )
        if trains:
            check_batch(cfg, args.num_processes * args.num_machines)
            warn_of_long_warmup(cfg)
        is_resumed = args.resume and os.path.isfile(os.path.join(cfg.OUTPUT_DIR, LAST_CHECKPOINT))
        if not is_resumed:  # if the weights are missing, say so before the data sets are read
            checkpointer = Checkpointer(nn.Module(), cfg.OUTPUT_DIR, require_all=args.eval_only)
            checkpointer.find(cfg.MODEL.WEIGHTS, resume=args.resume)
        is_new = trains and not is_resumed
        frequency = count_classes(cfg, trains=trains, is_new=is_new, progress=not args.quiet)
    cfg.freeze()
    return Prepared(cfg, frequency)


def complete_config(cfg: CfgNode, *, trains: bool, test_is_set: bool = False) -> None:
    """Set the keys that depend on the data sets, and check the config.

    Args:
        trains: False for an evaluation, which needs no training set.
        test_is_set: a DATASETS.TEST of () is meant so, and is not replaced by the validation split
            of DATASETS.FOLDER.

    Raises:
        InputError: a problem in the config, or a data set is missing.
    """
    if cfg.DATASETS.FOLDER:
        choose_splits(cfg, test_is_set=test_is_set)
    check_config(cfg)
    if trains:
        check_anchors(cfg)
    check_datasets(cfg, trains=trains)
