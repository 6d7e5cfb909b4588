"""What happens before a run: the config is completed and all that can be known to be wrong is said.

Done once, in the process that the user started, so that an error is one message and not one from
each of eight workers.
"""

import logging
import os
from argparse import Namespace
from dataclasses import replace

import torch

from sar.config import leaves, load_config, lookup
from sar.data.class_frequency import ClassFrequency
from sar.data.datasets import load_dataset, metadata_of
from sar.data.datasets.folder import choose_splits
from sar.data.grey_range import GreyRange
from sar.data.loader import check_batch_size
from sar.data.scan import scan_dataset
from sar.errors import InputError, listed
from sar.output_dir import CLASS_FREQUENCY, INFERENCE, LAST_CHECKPOINT

from detectron2.config import CfgNode

from .checks import (
    check_batch,
    check_buildable,
    check_datasets,
    check_names,
    check_output_dir,
    check_test_images,
    check_values,
    check_weights,
)
from .setup import log_to

logger = logging.getLogger(__name__)


def prepare(args: Namespace) -> CfgNode:
    """The complete, checked and frozen config of a run.

    Args:
        args: of `argument_parser`; see `choose_device` for what becomes of them.

    Raises:
        InputError: anything wrong with the config, the output folder or the data sets.
    """
    cfg = load_config(args.config_file, args.opts)
    check_output_dir(cfg.OUTPUT_DIR)
    # detectron2's own parser has no --num-processes.
    first_rank = args.machine_rank * max(args.num_gpus, getattr(args, "num_processes", 1))
    log_to(cfg.OUTPUT_DIR, first_rank, "sar", args)
    check_weights(cfg, complete_config(cfg, args), args)
    is_resumed = args.resume and os.path.isfile(os.path.join(cfg.OUTPUT_DIR, LAST_CHECKPOINT))
    find_class_frequency(
        cfg,
        is_new=not (args.eval_only or is_resumed),
        needs_training=not args.eval_only,
        progress=not getattr(args, "quiet", False),
    )
    cfg.freeze()
    return cfg


def complete_config(cfg: CfgNode, args: Namespace) -> torch.nn.Module:
    """Settles what depends on the machine and on the data sets, and checks the rest.

    Returns:
        the config's model, on the CPU, with random weights.

    Raises:
        InputError: anything wrong with the config, or data sets that are not there.
    """
    choose_device(cfg, args)
    if cfg.DATASETS.FOLDER:
        choose_splits(cfg, test_is_set=_sets(args, "DATASETS.TEST"))
    check_names(cfg)
    check_values(cfg)
    if not args.eval_only:
        check_batch_size(cfg, args.num_processes * args.num_machines)
    check_datasets(cfg, needs_training=not args.eval_only)
    model = check_buildable(cfg)
    if not args.eval_only:
        check_batch(cfg, model, args.num_processes * args.num_machines)
    check_test_images(cfg, model)
    return model


def _sets(args: Namespace, key: str) -> bool:
    """Whether the config file or the command line sets a key, be it to its default."""
    # Programs such as tools/visualize.py complete a config of their own: nothing is set by ().
    config_file, opts = getattr(args, "config_file", None) or "", getattr(args, "opts", ())
    loaded = {}
    if os.path.isfile(config_file):  # a pipe cannot be read again
        loaded = CfgNode.load_yaml_with_base(config_file)
    return key in leaves(loaded) or key in opts[::2]


def choose_device(cfg: CfgNode, args: Namespace) -> None:
    """The CPU where there is no GPU; and what only several processes, or only a GPU, can do.

    `args.num_gpus` becomes 0 on the CPU, and `args.num_processes` how many this machine runs.

    Raises:
        InputError: MODEL.DEVICE, or numbers of processes, that cannot be.
    """
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise InputError(f'MODEL.DEVICE "{cfg.MODEL.DEVICE}" is no device of torch') from error
    kind = device.type
    _check_processes(args)
    num_found = torch.cuda.device_count()
    if kind == "cuda" and args.num_gpus == 0:
        cfg.MODEL.DEVICE = "cpu"
    elif kind == "cuda" and num_found == 0:
        if args.num_machines > 1:
            raise InputError(
                f"--num-machines {args.num_machines}, but this one has no GPU: add --num-gpus 0 on "
                "all machines to train on their CPUs"
            )
        logger.warning(
            f"No GPU found: running on the CPU, in {args.num_processes} process(es) "
            "(MODEL.DEVICE cpu)"
        )
        cfg.MODEL.DEVICE = "cpu"
    if kind != "cuda" and args.num_gpus > 1:
        raise InputError(
            f'MODEL.DEVICE is "{cfg.MODEL.DEVICE}", but --num-gpus {args.num_gpus}: set it to '
            f"cuda, or say --num-gpus 0 --num-processes {args.num_gpus}"
        )
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        args.num_gpus = 0
        if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16":
            logger.warning(
                "SOLVER.AMP.ENABLED is turned off: on the CPU, SOLVER.AMP.DTYPE has to be bfloat16"
            )
            cfg.SOLVER.AMP.ENABLED = False
    elif args.num_gpus > num_found:
        raise InputError(f"--num-gpus {args.num_gpus}, but this machine has {num_found}")
    elif args.num_processes not in (1, args.num_gpus):
        raise InputError(
            f"--num-processes {args.num_processes} is for the CPU: add --num-gpus 0, or say "
            f"--num-gpus {args.num_processes} to use as many GPUs"
        )
    elif device.index is not None and args.num_gpus * args.num_machines > 1:
        raise InputError(
            f'MODEL.DEVICE "{cfg.MODEL.DEVICE}" is one GPU, which '
            f"{args.num_gpus * args.num_machines} processes would share: set it to cuda, so that "
            "each has its own"
        )
    else:
        args.num_processes = args.num_gpus
    if args.num_processes * args.num_machines == 1:
        _replace_sync_bn(cfg, "One process")
    elif args.num_gpus == 0:
        # PyTorch's own takes GPUs only. detectron2's naiveSyncBN does not, but takes the variance
        # for the difference of two means, which rounding makes negative, and the loss NaN.
        _replace_sync_bn(cfg, "On the CPU, each process on its own")


def _check_processes(args: Namespace) -> None:
    args.num_processes = getattr(args, "num_processes", 1)  # not in detectron2's own parser
    args.machine_rank = getattr(args, "machine_rank", 0)
    for name, least in (("num_gpus", 0), ("num_processes", 1), ("num_machines", 1)):
        if getattr(args, name) < least:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is {getattr(args, name)}, expected {least} or more")
    if not 0 <= args.machine_rank < args.num_machines:
        raise InputError(
            f"--machine-rank is {args.machine_rank}, but of --num-machines {args.num_machines} "
            f"the ranks are 0 to {args.num_machines - 1}"
        )
    if args.num_machines > 1 and getattr(args, "dist_url", "") == "auto":
        raise InputError(
            f"--num-machines {args.num_machines} without --dist-url: give all of them the address "
            "of machine 0, such as tcp://10.0.0.1:29500"
        )


def _replace_sync_bn(cfg: CfgNode, why: str) -> None:
    synchronized = ("SyncBN", "nnSyncBN", "naiveSyncBN")
    replaced = [key for key in leaves(cfg) if lookup(cfg, key) in synchronized]
    for key in replaced:
        group, _, last = key.rpartition(".")
        lookup(cfg, group)[last] = "BN"
    if replaced:
        logger.warning(f"{why}: SyncBN becomes BN in {', '.join(replaced)}")


def find_class_frequency(
    cfg: CfgNode, *, is_new: bool, needs_training: bool, progress: bool
) -> None:
    """Points DATASETS.CLASS_FREQUENCY to how frequent each class is, reading the data through.

    A new training (`is_new`) reads every image and label of its data sets, unless DATASETS.CHECK
    is off, so that a bad file is found now and not after hours. What was counted is left in
    OUTPUT_DIR, for runs on the same data that are resumed, or evaluate, there; an evaluation leaves
    its own in OUTPUT_DIR/inference. To evaluate without the training set is possible: then there
    are no groups of frequent and rare classes.

    Raises:
        InputError: what is wrong with the files; class frequencies of other classes.
    """
    path = os.path.join(cfg.OUTPUT_DIR, CLASS_FREQUENCY)
    given = cfg.DATASETS.CLASS_FREQUENCY
    if given:
        _require_same_classes(cfg, given)
    if is_new and cfg.DATASETS.CHECK:
        for name in cfg.DATASETS.TEST:
            _scan(cfg, (name,), check_images=True, progress=progress)
        _count_training_set(cfg, path, check_images=True, progress=progress)
    elif not given and (is_new or not _goes_with(cfg, path)):
        if not needs_training:
            path = os.path.join(cfg.OUTPUT_DIR, INFERENCE, CLASS_FREQUENCY)
        try:
            if needs_training or not _goes_with(cfg, path):
                _count_training_set(cfg, path, check_images=False, progress=progress)
        except InputError as error:
            if needs_training:
                raise
            logger.warning(f"No groups of frequent and rare classes: {error}")
            return
    cfg.DATASETS.CLASS_FREQUENCY = given or path


def _count_training_set(cfg: CfgNode, path: str, **options: bool) -> None:
    max_skipped = cfg.DATALOADER.MAX_SKIPPED_SAMPLES
    frequency = _scan(cfg, cfg.DATASETS.TRAIN, max_skipped=max_skipped, **options)
    replace(frequency, datasets=_training_sets(cfg)).save(path)


def _training_sets(cfg: CfgNode) -> tuple[str, ...]:
    """What tells the training set from others: folders of one name may have different images."""
    if cfg.DATASETS.FOLDER:
        return (os.path.realpath(os.path.expanduser(cfg.DATASETS.FOLDER)),)
    return tuple(cfg.DATASETS.TRAIN)


def _scan(
    cfg: CfgNode,
    names: tuple[str, ...],
    *,
    check_images: bool,
    progress: bool,
    max_skipped: int = 0,
) -> ClassFrequency:
    if not names:
        raise InputError("DATASETS.TRAIN is empty, whose classes would be counted")
    logger.info(f"Reading {', '.join(names)} through")
    metadata = metadata_of(names[0])
    scan = scan_dataset(
        [record for name in names for record in load_dataset(name)],
        metadata.stuff_classes,
        metadata.ignore_label,
        check_images=check_images,
        is_training_set=tuple(names) == tuple(cfg.DATASETS.TRAIN),
        class_colors=metadata.get("stuff_colors") or (),
        grey_range=GreyRange.from_config(cfg),
        progress=progress,
    )
    for warning in scan.warnings:
        logger.warning(f"{', '.join(names)}: {warning}")
    scan.raise_for_problems(max_skipped)
    if scan.problems:
        logger.warning(
            f"{len(scan.problems)} images will be skipped, of at most {max_skipped} "
            f"(DATALOADER.MAX_SKIPPED_SAMPLES).\n{scan.describe_problems(max_files=5)}"
        )
    return scan.frequency


def _goes_with(cfg: CfgNode, path: str) -> bool:
    """Whether counts of an earlier run are of this one's training set."""
    try:
        _require_same_classes(cfg, path)
    except InputError:
        return False
    return ClassFrequency.load(path).datasets == _training_sets(cfg)


def _require_same_classes(cfg: CfgNode, path: str) -> None:
    expected = tuple(metadata_of((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0]).stuff_classes)
    found = ClassFrequency.load(path).class_names
    if tuple(found) != expected:
        raise InputError(
            f"DATASETS.CLASS_FREQUENCY {path} is of other classes ({listed(found)}) "
            f"than the data set's ({listed(expected)})"
        )
