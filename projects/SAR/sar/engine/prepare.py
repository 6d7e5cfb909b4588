"""What happens before a run: the config is completed and all that can be known to be wrong is said.

Done once, in the process that the user started, so that an error is one message and not one from
each of eight workers.
"""

import logging
import os
from argparse import Namespace

import torch

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.data.datasets import load_dataset
from sar.data.datasets.folder import register_folder
from sar.data.scan import scan_dataset
from sar.errors import InputError

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from .checks import (
    check_buildable,
    check_datasets,
    check_names,
    check_output_dir,
    check_values,
    metadata_of,
)

logger = logging.getLogger(__name__)

CLASS_FREQUENCY_FILE = "class_frequency.json"


def prepare(args: Namespace) -> CfgNode:
    """The complete, checked and frozen config of a run.

    Args:
        args: of detectron2's `default_argument_parser`; `num_gpus` becomes 1 where there is no GPU.

    Raises:
        InputError: anything wrong with the config, the output folder or the data sets.
    """
    cfg = load_config(args.config_file, args.opts)
    check_output_dir(cfg.OUTPUT_DIR)
    first_rank = args.machine_rank * args.num_gpus
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=first_rank, name="sar")
    complete_config(cfg, args)
    is_resumed = args.resume and os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    find_class_frequency(
        cfg, is_new=not (args.eval_only or is_resumed), needs_training=not args.eval_only
    )
    cfg.freeze()
    return cfg


def complete_config(cfg: CfgNode, args: Namespace) -> None:
    """Settles what depends on the machine and on the data sets, and checks the rest.

    Raises:
        InputError: anything wrong with the config, or data sets that are not there.
    """
    choose_device(cfg, args)
    if cfg.DATASETS.FOLDER:
        train, val = register_folder(cfg.DATASETS.FOLDER)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (val,)
    check_names(cfg)
    check_values(cfg)
    check_datasets(cfg, needs_training=not args.eval_only)
    check_buildable(cfg)


def choose_device(cfg: CfgNode, args: Namespace) -> None:
    """The CPU where there is no GPU; and what only several processes, or only a GPU, can do."""
    try:
        kind = torch.device(cfg.MODEL.DEVICE).type
    except RuntimeError as error:
        raise InputError(f'MODEL.DEVICE "{cfg.MODEL.DEVICE}" is no device of torch') from error
    num_found = torch.cuda.device_count()
    if kind == "cuda" and num_found == 0:
        logger.warning("No GPU found: running on the CPU, in one process (MODEL.DEVICE cpu)")
        cfg.MODEL.DEVICE = "cpu"
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        if args.num_machines > 1:
            raise InputError(f"--num-machines {args.num_machines}, but this one has no GPU to use")
        args.num_gpus = min(args.num_gpus, 1)
        if cfg.SOLVER.AMP.ENABLED:
            logger.warning("SOLVER.AMP.ENABLED is turned off: detectron2 has it on GPUs only")
            cfg.SOLVER.AMP.ENABLED = False
    elif args.num_gpus > num_found:
        raise InputError(f"--num-gpus {args.num_gpus}, but this machine has {num_found}")
    if args.num_gpus * args.num_machines <= 1:
        replaced = _replace_sync_bn(cfg)
        if replaced:
            logger.warning(f"One process: SyncBN becomes BN in {', '.join(replaced)}")


def _replace_sync_bn(node: CfgNode, prefix: str = "") -> list[str]:
    replaced = []
    for key, value in node.items():
        if isinstance(value, CfgNode):
            replaced += _replace_sync_bn(value, f"{prefix}{key}.")
        elif value in ("SyncBN", "nnSyncBN", "naiveSyncBN"):
            node[key] = "BN"
            replaced.append(f"{prefix}{key}")
    return replaced


def find_class_frequency(cfg: CfgNode, *, is_new: bool, needs_training: bool) -> None:
    """Points DATASETS.CLASS_FREQUENCY to how frequent each class is, reading the data through.

    A new training (`is_new`) reads every image and label of its data sets, unless DATASETS.CHECK
    is off, so that a bad file is found now and not after hours. What was counted is left in
    OUTPUT_DIR, for runs that are resumed, or evaluate, there. To evaluate without the training set
    is possible: then there are no groups of frequent and rare classes.

    Raises:
        InputError: what is wrong with the files; class frequencies of other classes.
    """
    path = os.path.join(cfg.OUTPUT_DIR, CLASS_FREQUENCY_FILE)
    given = cfg.DATASETS.CLASS_FREQUENCY
    if given:
        _require_same_classes(cfg, given)
    if is_new and cfg.DATASETS.CHECK:
        for name in cfg.DATASETS.TEST:
            _scan((name,), check_images=True)
        _scan(cfg.DATASETS.TRAIN, check_images=True).save(path)
    elif not given and (is_new or not _goes_with(cfg, path)):
        try:
            _scan(cfg.DATASETS.TRAIN, check_images=False).save(path)
        except InputError as error:
            if needs_training:
                raise
            logger.warning(f"No groups of frequent and rare classes: {error}")
            return
    cfg.DATASETS.CLASS_FREQUENCY = given or path


def _scan(names: tuple[str, ...], *, check_images: bool) -> ClassFrequency:
    if not names:
        raise InputError("DATASETS.TRAIN is empty, whose classes would be counted")
    logger.info(f"Reading {', '.join(names)} through")
    metadata = metadata_of(names[0])
    scan = scan_dataset(
        [record for name in names for record in load_dataset(name)],
        metadata.stuff_classes,
        metadata.ignore_label,
        check_images=check_images,
    )
    scan.raise_for_problems()
    return scan.frequency


def _goes_with(cfg: CfgNode, path: str) -> bool:
    try:
        _require_same_classes(cfg, path)
    except InputError:
        return False  # of an earlier run with another data set
    return True


def _require_same_classes(cfg: CfgNode, path: str) -> None:
    expected = tuple(metadata_of((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0]).stuff_classes)
    found = ClassFrequency.load(path).class_names
    if tuple(found) != expected:
        raise InputError(
            f"DATASETS.CLASS_FREQUENCY {path} is of other classes ({', '.join(found[:5])}, ...) "
            f"than the data set's ({', '.join(expected[:5])}, ...)"
        )
