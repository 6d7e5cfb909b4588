"""Before a run: complete the config, and report all problems in the config and the data.

This happens once, in the process that the user started, so that an error is printed only once.
"""

import logging
import os
from argparse import Namespace
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sar.config import leaves, load_config, lookup
from sar.config_file import read_config_file
from sar.data.class_frequency import (
    ClassFrequency,
    class_frequency_of,
    fingerprint_of,
    note_class_frequency,
)
from sar.data.datasets import load_dataset, metadata_of
from sar.data.datasets.folder import choose_splits
from sar.data.grey_range import GreyRange
from sar.data.loader import check_batch_size
from sar.data.palettes import PaletteComparison, given_colors
from sar.data.scan import scan_dataset
from sar.errors import InputError, listed
from sar.evaluation.evaluator import evaluation_folder
from sar.files import lock
from sar.files.disk import writing_to
from sar.files.run_folder import CLASS_FREQUENCY, LAST_CHECKPOINT, check_is_evaluation
from sar.preflight.checks import (
    check_batch,
    check_buildable,
    check_datasets,
    check_names,
    check_output_dir,
    check_test_images,
    check_values,
    check_weights,
)

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


def prepare(args: Namespace) -> CfgNode:
    """Return the complete, checked and frozen config of a run.

    A training locks OUTPUT_DIR for this process. Nothing else is written there.

    Args:
        args: from `argument_parser`. `choose_device` completes them. `class_frequency` is set to
            the counts of the training set, for `note_class_frequency` in other processes.

    Raises:
        InputError: a problem in the config, the output folder or the data sets.
    """
    cfg = load_config(args.config_file, args.opts)
    with writing_to(cfg.OUTPUT_DIR):
        return _prepare(cfg, args)


def _prepare(cfg: CfgNode, args: Namespace) -> CfgNode:
    is_new_folder = not os.path.lexists(cfg.OUTPUT_DIR)
    check_output_dir(cfg, trains=not args.eval_only)
    try:
        if not args.eval_only and args.machine_rank == 0:
            lock.hold(cfg.OUTPUT_DIR)
        weights = check_weights(cfg, complete_config(cfg, args), args)
        evaluated = evaluation_folder(cfg.OUTPUT_DIR, weights) if args.eval_only else ""
        if args.eval_only:
            check_is_evaluation(cfg.OUTPUT_DIR, evaluated)
        args.class_frequency = count_classes(cfg, args, evaluated)
        note_class_frequency(cfg, args.class_frequency)
    except BaseException:
        lock.release()
        if is_new_folder:
            with suppress(OSError):
                Path(cfg.OUTPUT_DIR).rmdir()
        raise
    cfg.freeze()
    return cfg


def complete_config(cfg: CfgNode, args: Namespace) -> torch.nn.Module:
    """Set the keys that depend on the machine and the data sets, and check the config.

    Returns:
        the model of the config, on the CPU, with random weights.

    Raises:
        InputError: a problem in the config, or a data set is missing.
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
    """Return True if the config file or the command line sets a key, even to its default."""
    # Programs such as tools/visualize.py have no such arguments.
    config_file, opts = getattr(args, "config_file", ""), getattr(args, "opts", ())
    loaded = read_config_file(config_file) if config_file else {}
    return key in leaves(loaded) or key in opts[::2]


def choose_device(cfg: CfgNode, args: Namespace | None = None) -> None:
    """Choose the device (the CPU without a GPU) and the number of processes.

    Args:
        args: `num_gpus` None means one GPU if there is one. On the CPU, it becomes 0.
            `num_processes` becomes the number of processes on this machine. Without `args`: one
            process, as in a tool.

    Raises:
        InputError: MODEL.DEVICE or the numbers of processes are not possible.
    """
    args = Namespace(num_gpus=None, num_machines=1) if args is None else args
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise InputError(f'MODEL.DEVICE "{cfg.MODEL.DEVICE}" is not a device of torch') from error
    kind = device.type
    is_asked_for = args.num_gpus is not None
    if not is_asked_for:
        args.num_gpus = 1
    _check_processes(args)
    num_found = torch.cuda.device_count()
    if kind == "cuda" and args.num_gpus == 0:
        cfg.MODEL.DEVICE = "cpu"
    elif kind == "cuda" and num_found == 0:
        if is_asked_for:
            raise InputError(
                f"--num-gpus {args.num_gpus}, but PyTorch finds no GPU on this machine. Leave the "
                "option out to run on the CPU, or check the driver with nvidia-smi."
            )
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
        # PyTorch's SyncBN needs GPUs. detectron2's naiveSyncBN computes the variance as a
        # difference of means. Rounding can make it negative, and the loss NaN.
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


def count_classes(
    cfg: CfgNode, args: Namespace, evaluated: str | os.PathLike = ""
) -> ClassFrequency | None:
    """Return the class counts of the training set; read the data if necessary.

    A new training reads all images and labels of its data sets, unless DATASETS.CHECK is False, so
    that bad files are found early. A resumed training uses its first counts. An evaluation uses the
    counts of the training in OUTPUT_DIR; without them and without the training set, there are no
    groups of frequent and rare classes.

    Args:
        evaluated: for --eval-only, the `evaluation_folder` of the checkpoint.

    Returns:
        The counts; None if they are unknown.

    Raises:
        InputError: problems in the files, or a class-frequency file with other classes.
    """
    output, progress = cfg.OUTPUT_DIR, not getattr(args, "quiet", False)
    is_resumed = args.resume and os.path.isfile(os.path.join(output, LAST_CHECKPOINT))
    is_new = not (args.eval_only or is_resumed)
    given = cfg.DATASETS.CLASS_FREQUENCY
    frequency = ClassFrequency.load(given) if given else None
    if frequency is not None:
        _require_same_classes(cfg, frequency, given)
    if is_new and cfg.DATASETS.CHECK:
        metadata = metadata_of(cfg.DATASETS.TRAIN[0])
        palettes = PaletteComparison(metadata.stuff_classes, given_colors(metadata))
        options = {"check_images": True, "progress": progress, "palettes": palettes}
        for name in cfg.DATASETS.TEST:
            _scan(cfg, (name,), **options)
        counted = _count_training_set(cfg, **options)
        if frequency is not None:
            _warn_of_changes(frequency, counted, given)
        return frequency or counted
    if frequency is not None:
        has_fingerprint = bool(frequency.fingerprint)
        return _still_valid(cfg, frequency, given, progress) if has_fingerprint else frequency
    if not is_new:
        path = os.path.join(output, CLASS_FREQUENCY)
        if kept := _counts_of_earlier_run(cfg, path):
            return _still_valid(cfg, kept, path, progress)
    if args.eval_only:
        kept = _counts_of_earlier_run(cfg, os.path.join(evaluated, CLASS_FREQUENCY))
        if kept and _has_same_labels(cfg, kept):
            return kept
    try:
        return _count_training_set(cfg, check_images=False, progress=progress)
    except InputError as error:
        if not args.eval_only:
            raise
        logger.warning(f"No groups of frequent and rare classes: {error}")
        return None


def save_class_frequency(cfg: CfgNode, path: str | os.PathLike) -> None:
    """Write the counts of the training set to `path`, unless it holds them already."""
    frequency = class_frequency_of(cfg)
    with suppress(InputError):
        if frequency is None or ClassFrequency.load(path) == frequency:
            return
    frequency.save(path)


def _count_training_set(cfg: CfgNode, **options: Any) -> ClassFrequency:
    max_skipped = cfg.DATALOADER.MAX_SKIPPED_SAMPLES
    frequency = _scan(cfg, cfg.DATASETS.TRAIN, max_skipped=max_skipped, **options)
    with suppress(OSError):  # a missing label, which a training may skip
        frequency = replace(frequency, fingerprint=_fingerprint(cfg))
    return replace(frequency, datasets=_training_sets(cfg))


def _fingerprint(cfg: CfgNode) -> str:
    records = (record for name in cfg.DATASETS.TRAIN for record in load_dataset(name))
    return fingerprint_of(r["sem_seg_file_name"] for r in records if "sem_seg_file_name" in r)


def _has_same_labels(cfg: CfgNode, kept: ClassFrequency) -> bool:
    """Return True if the label files are unchanged since they were counted, or not here."""
    try:
        return _fingerprint(cfg) == kept.fingerprint
    except (InputError, OSError):
        return True


def _still_valid(cfg: CfgNode, kept: ClassFrequency, path: str, progress: bool) -> ClassFrequency:
    """Return the counts in the file `path`; warn if the labels have other counts now."""
    if _has_same_labels(cfg, kept):
        return kept
    try:
        counted = _count_training_set(cfg, check_images=False, progress=progress)
    except InputError as error:
        logger.warning(
            f"The labels have changed since {path} was written, and have problems: {error}"
        )
        return kept
    _warn_of_changes(kept, counted, path)
    # Copied or touched labels have a new fingerprint but the same counts.
    return counted if counted.counts_the_same(kept) else kept


def _warn_of_changes(kept: ClassFrequency, counted: ClassFrequency, path: str) -> None:
    """Warn if the training labels now have other counts than the file."""
    if counted.counts_the_same(kept):
        return
    pixels = zip(kept.class_names, kept.pixels, counted.pixels, strict=True)
    changed = [name for name, before, now in pixels if before != now]
    logger.warning(
        f"The training labels have changed since they were counted for {path}: "
        f"{listed(changed) or 'ignored pixels'} have other counts now. Class weights, priors and "
        "groups still follow the counts in that file. To count again, remove it, or leave "
        "DATASETS.CLASS_FREQUENCY empty, and run the same command."
    )


def _training_sets(cfg: CfgNode) -> tuple[str, ...]:
    """Return an identity of the training set; folders can share a name."""
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
    palettes: PaletteComparison | None = None,
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
        palettes=palettes,
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


def _counts_of_earlier_run(cfg: CfgNode, path: str) -> ClassFrequency | None:
    """Return the counts in a file if they belong to the training set of this run, else None."""
    try:
        kept = ClassFrequency.load(path)
        _require_same_classes(cfg, kept, path)
    except InputError:
        return None
    return kept if kept.datasets == _training_sets(cfg) else None


def _require_same_classes(cfg: CfgNode, frequency: ClassFrequency, path: str) -> None:
    expected = tuple(metadata_of((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0]).stuff_classes)
    found = frequency.class_names
    if tuple(found) != expected:
        raise InputError(
            f"DATASETS.CLASS_FREQUENCY {path} is of other classes ({listed(found)}) "
            f"than the data set's ({listed(expected)})"
        )
