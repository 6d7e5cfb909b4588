"""Checks of a config before a run.

Each check raises an InputError that says what is wrong, where, and what to do.
"""

import logging
import os
import tempfile
from pathlib import Path

from sar.config import lookup
from sar.data.cloud_mapper import num_features
from sar.data.clouds import is_cloud, read_cloud_label
from sar.data.datasets import load_dataset, metadata_of
from sar.data.loader import check_batch_size, check_sampler
from sar.data.locations import folders_of_tree
from sar.data.scan import describe_single_class
from sar.errors import InputError, nearest
from sar.files import lock
from sar.files.run_folder import check_is_free
from sar.modeling.backbones.timm_backbone import check_timm
from sar.modeling.heads import UPerNetHead
from sar.modeling.inference import check_inference, is_meta_architecture
from sar.modeling.loss_terms import check_loss, check_number_of_weights
from sar.modeling.point_segmentor import PointSegmentor
from sar.modeling.regularizer_registry import check_regularizer
from sar.solver import check_solver, longest_warmup

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    PanopticFPN,
    SemanticSegmentor,
)

logger = logging.getLogger(__name__)


def check_output_dir(cfg: CfgNode, *, trains: bool) -> None:
    """Create OUTPUT_DIR if it is missing.

    Args:
        trains: the run is a training, which writes files of fixed names there.

    Raises:
        InputError: OUTPUT_DIR is empty, cannot be written, or has files that no run of ours wrote.
    """
    path = cfg.OUTPUT_DIR
    if not path:
        raise InputError("OUTPUT_DIR is empty, so nothing would be saved: name a folder")
    try:
        if trains:
            check_is_free(path)
            _check_is_no_data(cfg)
        lock.create(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"OUTPUT_DIR {path} cannot be written ({error.strerror}: {error.filename}). Choose "
            "another."
        ) from error


def _check_is_no_data(cfg: CfgNode) -> None:
    """Raise InputError if OUTPUT_DIR is DATASETS.FOLDER, or lies among its images or labels."""
    if not cfg.DATASETS.FOLDER:
        return
    output = Path(os.path.realpath(cfg.OUTPUT_DIR))
    root, *parts = (Path(os.path.realpath(path)) for path in folders_of_tree(cfg.DATASETS.FOLDER))
    if output == root or any(part in (output, *output.parents) for part in parts):
        raise InputError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} lies in the data set {cfg.DATASETS.FOLDER} "
            "(DATASETS.FOLDER). Choose another."
        )


def check_config(cfg: CfgNode) -> None:
    """All checks of a config that need neither a data set nor a model.

    Raises:
        InputError: an unknown name, names that exclude each other, or a number that is impossible.
    """
    _check_names(cfg)
    _check_values(cfg)


def _check_names(cfg: CfgNode) -> None:
    """Raise InputError for names that are not registered, or that exclude each other."""
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
        ("MODEL.SEM_SEG_HEAD.NAME", cfg.MODEL.SEM_SEG_HEAD.NAME, SEM_SEG_HEADS_REGISTRY),
    ):
        if name not in registry:
            known = sorted(known for known, _ in registry)
            raise InputError(f'{key}: nothing is registered as "{name}".{nearest(name, known)}')
    for name in cfg.MODEL.REGULARIZERS:
        check_regularizer(name)
    check_timm(cfg)
    check_loss(cfg)
    if cfg.INPUT.CLASS_MASKS and cfg.MODEL.MASK_ON:
        raise InputError(
            "INPUT.CLASS_MASKS and MODEL.MASK_ON are True, but a model takes either the masks of "
            "classes or instances: set one of them to False"
        )
    check_solver(cfg)
    check_sampler(cfg)
    check_inference(cfg)
    if cfg.INPUT.POINTS.VOXEL_SIZE:
        num_features(cfg.INPUT.POINTS.FEATURES)
        for key in ("TEST.OBJECTS", "TEST.BOUNDARY_IOU"):
            if lookup(cfg, key):
                raise InputError(
                    f"{key} is True, but it measures regions of images, and the points of a cloud "
                    "have no neighbours in their file: set it to False"
                )
    elif is_meta_architecture(cfg, PointSegmentor):
        raise InputError(
            "INPUT.POINTS.VOXEL_SIZE is 0, but MODEL.META_ARCHITECTURE PointSegmentor segments "
            "point clouds: set it to the length of a voxel's edge, such as 0.05"
        )
    for architecture, takes_instances in ((PanopticFPN, True), (SemanticSegmentor, False)):
        if is_meta_architecture(cfg, architecture) and cfg.MODEL.MASK_ON != takes_instances:
            raise InputError(
                f"MODEL.MASK_ON is {cfg.MODEL.MASK_ON}, but MODEL.META_ARCHITECTURE "
                f"{cfg.MODEL.META_ARCHITECTURE} {'needs' if takes_instances else 'takes no'} "
                f"instances: set it to {takes_instances}"
            )


def _check_values(cfg: CfgNode) -> None:
    """Raise InputError for numbers that no run can have, and that nothing else refuses."""
    solver, inputs, model = cfg.SOLVER, cfg.INPUT, cfg.MODEL
    for key, is_possible, expected in (
        ("SOLVER.MAX_ITER", solver.MAX_ITER >= 1, "1 or more"),
        ("SOLVER.IMS_PER_BATCH", solver.IMS_PER_BATCH >= 1, "1 or more"),
        ("SOLVER.CHECKPOINT_PERIOD", solver.CHECKPOINT_PERIOD >= 1, "1 or more"),
        (
            "SOLVER.CHECKPOINTS_KEPT",
            solver.CHECKPOINTS_KEPT == 0 or solver.CHECKPOINTS_KEPT >= 2,
            "2 or more, or 0 for all",
        ),
        ("SOLVER.WARMUP_ITERS", solver.WARMUP_ITERS >= 0, "0 or more"),
        ("SOLVER.MOMENTUM", solver.MOMENTUM < 1, "less than 1"),
        ("SOLVER.POLY_LR_POWER", solver.POLY_LR_POWER >= 0, "0 or more"),
        ("SOLVER.AMP.DTYPE", solver.AMP.DTYPE in ("float16", "bfloat16"), "float16 or bfloat16"),
        ("SOLVER.REFERENCE_WORLD_SIZE", solver.REFERENCE_WORLD_SIZE == 0, "0 (not supported)"),
        ("DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS >= 0, "0 or more"),
        (
            "DATALOADER.MAX_SKIPPED_SAMPLES",
            cfg.DATALOADER.MAX_SKIPPED_SAMPLES >= 0,
            "0 or more",
        ),
        ("INPUT.MAX_SIZE_TRAIN", inputs.MAX_SIZE_TRAIN >= 1, "1 or more"),
        ("INPUT.MIN_SIZE_TEST", inputs.MIN_SIZE_TEST >= 0, "0 (not resized) or more"),
        ("INPUT.MAX_SIZE_TEST", inputs.MAX_SIZE_TEST >= 1, "1 or more"),
        ("MODEL.PIXEL_MEAN", len(model.PIXEL_MEAN) == 3, "three numbers"),
        ("MODEL.PIXEL_STD", len(model.PIXEL_STD) == 3 and 0 not in model.PIXEL_STD, "three, not 0"),
        ("TEST.PICTURES", cfg.TEST.PICTURES >= 0, "0 or more"),
        ("TEST.OBJECT_IOU", 0 < cfg.TEST.OBJECT_IOU <= 1, "above 0, up to 1"),
        ("SEED", cfg.SEED < 2**32, "less than 2^32"),
        (
            "TEST.EXPECTED_RESULTS",
            all(map(_is_expected_result, cfg.TEST.EXPECTED_RESULTS)),
            "lists of task, metric, value and tolerance, such as [['sem_seg', 'mIoU', 40.0, 1.0]]",
        ),
    ):
        if not is_possible:
            raise InputError(f"{key} is {lookup(cfg, key)}, expected {expected}")


def warn_of_long_warmup(cfg: CfgNode) -> None:
    """Warn if warm-up takes half of a training or more, which then has a low learning rate."""
    steps, warmup = cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS
    if 2 * warmup >= steps:
        logger.warning(
            f"SOLVER.WARMUP_ITERS {warmup} is half or more of SOLVER.MAX_ITER {steps}, so the "
            "learning rate stays far below SOLVER.BASE_LR: set SOLVER.WARMUP_ITERS to "
            f"{longest_warmup(steps)}"
        )


def _is_expected_result(entry: object) -> bool:
    is_list = isinstance(entry, (list, tuple)) and len(entry) == 4
    return (
        is_list
        and all(isinstance(name, str) for name in entry[:2])
        and all(isinstance(number, (int, float)) for number in entry[2:])
    )


def check_batch(cfg: CfgNode, num_processes: int) -> None:
    """Raise InputError if the processes cannot share SOLVER.IMS_PER_BATCH.

    Args:
        num_processes: of all machines.
    """
    check_batch_size(cfg, num_processes)
    head = SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)
    # SyncBN, which is left only with several processes, sees the images of all.
    has_batch_norm = cfg.MODEL.SEM_SEG_HEAD.NORM == "BN"
    is_one_each = cfg.SOLVER.IMS_PER_BATCH == num_processes
    if isinstance(head, type) and issubclass(head, UPerNetHead) and has_batch_norm and is_one_each:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is one image per process. "
            "UPerNetHead pools it to one position, but batch norm needs two to train: set it to "
            f"{2 * num_processes} or more, or MODEL.SEM_SEG_HEAD.NORM to GN (SyncBN on several "
            "GPUs)"
        )


def check_datasets(cfg: CfgNode, *, trains: bool) -> None:
    """Check the data sets, and take NUM_CLASSES and IGNORE_VALUE from them.

    NUM_CLASSES 0 becomes the number of their classes. IGNORE_VALUE becomes their `ignore_label`,
    unless it is set to something other than its default.

    Args:
        trains: check the training sets, too.

    Raises:
        InputError: no data set is named, or one is unknown, missing, not for semantic segmentation,
            or without the instances that MASK_ON needs; data sets have different classes, or a
            training has one; NUM_CLASSES, IGNORE_VALUE or the number of class weights differ from
            the data sets.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    needed = "TRAIN" if trains else "TEST"
    if not cfg.DATASETS[needed]:
        raise InputError(f"DATASETS.{needed} is empty: name a data set, or set DATASETS.FOLDER")
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if trains else cfg.DATASETS.TEST
    metadata = metadata_of(names[0])
    classes = list(metadata.stuff_classes)
    if trains and len(classes) == 1:
        raise InputError(describe_single_class(f'"{names[0]}" has one class', classes))
    if head.NUM_CLASSES == 0:
        head.NUM_CLASSES = len(classes)
    if head.NUM_CLASSES != len(classes):
        raise InputError(
            f'MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but data set "{names[0]}" has '
            f"{len(classes)} classes: set it to {len(classes)} (or to 0, to take it from the data)"
        )
    check_number_of_weights(cfg)
    if head.IGNORE_VALUE == get_cfg().MODEL.SEM_SEG_HEAD.IGNORE_VALUE:
        head.IGNORE_VALUE = metadata.ignore_label
    for name in names:
        records = load_dataset(name)  # a missing split is found now, not at its evaluation
        _check_kind(cfg, name, records[0]["file_name"])
        is_read_later = trains and cfg.DATASETS.CHECK
        if name in cfg.DATASETS.TEST and not is_read_later:
            _check_has_labels(name, records[0])
        if trains and cfg.MODEL.MASK_ON and name in cfg.DATASETS.TRAIN:
            _check_instances(name, records)
        if list(metadata_of(name).stuff_classes) != classes:
            raise InputError(f'data sets "{names[0]}" and "{name}" have different classes')
        ignore_label = metadata_of(name).ignore_label
        if ignore_label != head.IGNORE_VALUE:
            raise InputError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, but pixels to ignore are "
                f'{ignore_label} in data set "{name}": set it to {ignore_label}'
            )


def _check_kind(cfg: CfgNode, name: str, file: str) -> None:
    """Raise InputError if a config for images gets point clouds, or the other way round."""
    if is_cloud(file) and not cfg.INPUT.POINTS.VOXEL_SIZE:
        raise InputError(
            f'data set "{name}" has point clouds ({os.path.basename(file)}), but the config is for '
            "images (INPUT.POINTS.VOXEL_SIZE is 0): use a config with a sparse_unet, such as "
            "configs/Folder/baseline_sparse_unet_small.yaml"
        )
    if not is_cloud(file) and cfg.INPUT.POINTS.VOXEL_SIZE:
        raise InputError(
            f'data set "{name}" has images ({os.path.basename(file)}), but the config is for point '
            "clouds (INPUT.POINTS.VOXEL_SIZE is above 0): use a config for images"
        )


def _check_has_labels(name: str, record: dict) -> None:
    """Raise InputError if the first record of a test set is a point cloud without labels."""
    if not is_cloud(record["file_name"]):
        return
    try:
        read_cloud_label(record.get("sem_seg_file_name", record["file_name"]))
    except InputError as error:
        raise InputError(
            f'data set "{name}" in DATASETS.TEST cannot be evaluated. {error} To predict clouds '
            "without ground truth, use tools/predict.py"
        ) from error


def _check_instances(name: str, records: list[dict]) -> None:
    lacking = [record for record in records if "annotations" not in record]
    is_crowd = [x.get("iscrowd", 0) for r in records for x in r.get("annotations", ())]
    if lacking or all(is_crowd):
        found = f"{len(lacking)} of its {len(records)} images" if lacking else "its images"
        raise InputError(
            f'MODEL.MASK_ON is True, but data set "{name}" has no instances to train on: {found} '
            'have none in "annotations". Name a data set that has, or set MODEL.MASK_ON False and '
            "MODEL.META_ARCHITECTURE RegularizedSemanticSegmentor"
        )
