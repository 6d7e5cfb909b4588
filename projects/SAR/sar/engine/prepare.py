"""What happens before a run: the config is completed and all that can be known to be wrong is said.

Done once, in the process that the user started, so that an error is one message and not one from
each of eight workers.
"""

import logging
import os
import tempfile
from argparse import Namespace

import torch

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.data.datasets import load_dataset
from sar.data.datasets.folder import register_folder
from sar.data.loader import check_sampler
from sar.data.scan import scan_dataset
from sar.errors import InputError, nearest
from sar.modeling import REGULARIZER_REGISTRY, RegularizedModel
from sar.modeling.losses import check_loss

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils.logger import setup_logger

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
    check_datasets(cfg, needs_training=not args.eval_only)


def check_output_dir(path: str) -> None:
    """Creates OUTPUT_DIR; raises InputError where nothing can be written there."""
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"OUTPUT_DIR {path} cannot be written: {error.strerror}") from error


def choose_device(cfg: CfgNode, args: Namespace) -> None:
    """The CPU where there is no GPU; and what only several processes, or only a GPU, can do."""
    num_found = torch.cuda.device_count()
    if cfg.MODEL.DEVICE.startswith("cuda") and num_found == 0:
        logger.warning("No GPU found: running on the CPU, in one process (MODEL.DEVICE cpu)")
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE == "cpu":
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


def check_names(cfg: CfgNode) -> None:
    """Raises InputError for names in the config that nothing is registered under, or that clash."""
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
        ("MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME, SEM_SEG_HEADS_REGISTRY),
        *(("MODEL.REGULARIZERS", name, REGULARIZER_REGISTRY) for name in cfg.MODEL.REGULARIZERS),
    ):
        if name not in registry:
            known = sorted(known for known, _ in registry)
            raise InputError(f'{key}: nothing is registered as "{name}".{nearest(name, known)}')
    check_loss(cfg)
    check_sampler(cfg)
    meta_architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    for key, value in (
        ("MODEL.REGULARIZERS", cfg.MODEL.REGULARIZERS),
        ("MODEL.LOSS.NAME", cfg.MODEL.LOSS.NAME),
    ):
        if value and not issubclass(meta_architecture, RegularizedModel):
            raise InputError(
                f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} takes no {key}: "
                "set it to RegularizedSemanticSegmentor or RegularizedPanopticFPN"
            )


def check_datasets(cfg: CfgNode, *, needs_training: bool) -> None:
    """Takes a NUM_CLASSES of 0 from the data sets, and holds them against the config.

    Raises:
        InputError: no data set is named, or one is unknown, not there, of other classes than
            another, or at odds with NUM_CLASSES or IGNORE_VALUE.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    for key, names, is_needed in (
        ("DATASETS.TRAIN", cfg.DATASETS.TRAIN, needs_training),
        ("DATASETS.TEST", cfg.DATASETS.TEST, not needs_training),
    ):
        if is_needed and not names:
            raise InputError(f"{key} is empty: name a data set, or set DATASETS.FOLDER")
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if needs_training else cfg.DATASETS.TEST
    classes = list(_metadata(names[0]).stuff_classes)
    if head.NUM_CLASSES == 0:
        head.NUM_CLASSES = len(classes)
    if head.NUM_CLASSES != len(classes):
        raise InputError(
            f'MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but data set "{names[0]}" has '
            f"{len(classes)} classes: set it to {len(classes)} (or to 0, to take it from the data)"
        )
    for name in names:
        load_dataset(name)  # a split that is not there is seen now, and not when it is evaluated
        if list(_metadata(name).stuff_classes) != classes:
            raise InputError(f'data sets "{names[0]}" and "{name}" have different classes')
        ignore_label = _metadata(name).ignore_label
        if ignore_label != head.IGNORE_VALUE:
            raise InputError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, but pixels to ignore are "
                f'{ignore_label} in data set "{name}": set it to {ignore_label}'
            )


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
    metadata = _metadata(names[0])
    scan = scan_dataset(
        [record for name in names for record in load_dataset(name)],
        metadata.stuff_classes,
        metadata.ignore_label,
        check_images=check_images,
    )
    scan.raise_for_problems()
    return scan.frequency


def _metadata(name: str):
    if name not in DatasetCatalog:
        load_dataset(name)  # says what is known
    return MetadataCatalog.get(name)


def _goes_with(cfg: CfgNode, path: str) -> bool:
    try:
        _require_same_classes(cfg, path)
    except InputError:
        return False  # of an earlier run with another data set
    return True


def _require_same_classes(cfg: CfgNode, path: str) -> None:
    expected = tuple(_metadata((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0]).stuff_classes)
    found = ClassFrequency.load(path).class_names
    if tuple(found) != expected:
        raise InputError(
            f"DATASETS.CLASS_FREQUENCY {path} is of other classes ({', '.join(found[:5])}, ...) "
            f"than the data set's ({', '.join(expected[:5])}, ...)"
        )
