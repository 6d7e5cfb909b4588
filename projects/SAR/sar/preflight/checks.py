"""What can be seen to be wrong before a run: each check raises an InputError that says what, where
and what to do."""

import os
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sar.checkpoints.checkpointer import Checkpointer, Classes
from sar.config import leaves, load_config, lookup
from sar.data.datasets import load_dataset, metadata_of
from sar.data.image_files import read_image_size
from sar.data.loader import check_sampler
from sar.data.locations import folders_of_tree
from sar.data.mapper import build_train_mapper
from sar.data.scan import describe_single_class
from sar.errors import InputError, nearest
from sar.files.run_folder import check_is_free
from sar.modeling import REGULARIZER_REGISTRY, RegularizedModel
from sar.modeling.head_loss import check_loss
from sar.modeling.heads import UPerNetHead
from sar.modeling.heads.base import select_features
from sar.modeling.inference import check_inference, check_pooling
from sar.modeling.timm_backbone import check_timm_model
from sar.solver import build_lr_scheduler, build_optimizer

from detectron2.config import CfgNode
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    PanopticFPN,
    SemanticSegmentor,
    build_backbone,
    build_model,
    build_sem_seg_head,
)


def check_output_dir(cfg: CfgNode, *, trains: bool) -> None:
    """Create OUTPUT_DIR if it is missing.

    Args:
        trains: the run is a training, which writes files of fixed names there.

    Raises:
        InputError: OUTPUT_DIR cannot be written, or has files that no run of ours wrote.
    """
    path = cfg.OUTPUT_DIR
    if path.endswith((".txt", ".log")):
        raise InputError(
            f"OUTPUT_DIR {path} has the name of a log file, as detectron2 sees it. Change it."
        )
    if trains:
        check_is_free(path)
        _check_is_no_data(cfg)
    try:
        os.makedirs(path, exist_ok=True)
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
    if cfg.MODEL.BACKBONE.NAME == "build_timm_backbone":
        check_timm_model(cfg.MODEL.TIMM.NAME)
    check_loss(cfg)
    check_sampler(cfg)
    check_inference(cfg)
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
    for architecture, takes_instances in ((PanopticFPN, True), (SemanticSegmentor, False)):
        if issubclass(meta_architecture, architecture) and cfg.MODEL.MASK_ON != takes_instances:
            raise InputError(
                f"MODEL.MASK_ON is {cfg.MODEL.MASK_ON}, but MODEL.META_ARCHITECTURE "
                f"{cfg.MODEL.META_ARCHITECTURE} {'needs' if takes_instances else 'takes no'} "
                f"instances: set it to {takes_instances}"
            )


# What detectron2's GroupNorm divides into 32 groups.
_NORMALIZED = (
    ("RESNETS", "STEM_OUT_CHANNELS"),
    ("RESNETS", "RES2_OUT_CHANNELS"),
    ("FPN", "OUT_CHANNELS"),
    ("SEM_SEG_HEAD", "CONVS_DIM"),
)


def check_values(cfg: CfgNode) -> None:
    """Raises InputError for numbers that no run can have, and that nothing else refuses."""
    solver, inputs, model = cfg.SOLVER, cfg.INPUT, cfg.MODEL
    groups_of_norm = [
        (f"MODEL.{group}.{key}", model[group][key] % 32 == 0, f"a multiple of 32, for NORM {norm}")
        for group, key in _NORMALIZED
        if (norm := model[group].NORM) == "GN"
    ]
    for key, is_possible, expected in (
        *groups_of_norm,
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
        ("SEED", cfg.SEED < 2**32, "less than 2^32"),
        (
            "TEST.EXPECTED_RESULTS",
            all(map(_is_expected_result, cfg.TEST.EXPECTED_RESULTS)),
            "lists of task, metric, value and tolerance, such as [['sem_seg', 'mIoU', 40.0, 1.0]]",
        ),
    ):
        if not is_possible:
            raise InputError(f"{key} is {lookup(cfg, key)}, expected {expected}")


def _is_expected_result(entry: object) -> bool:
    is_list = isinstance(entry, (list, tuple)) and len(entry) == 4
    return (
        is_list
        and all(isinstance(name, str) for name in entry[:2])
        and all(isinstance(number, (int, float)) for number in entry[2:])
    )


def check_model(cfg: CfgNode) -> torch.nn.Module:
    """All checks of a config that need no data set, whose number of classes is to be there.

    Returns:
        the model, on the CPU, with random weights.

    Raises:
        InputError: NUM_CLASSES is 0; as `check_names`, `check_values` and `check_buildable`.
    """
    check_names(cfg)
    check_values(cfg)
    if cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 0:
        raise InputError("MODEL.SEM_SEG_HEAD.NUM_CLASSES is 0: add it and the number to the line")
    return check_buildable(cfg)


def check_buildable(cfg: CfgNode) -> torch.nn.Module:
    """Builds model, optimizer, schedule and augmentation once, on the CPU, to see that they can be.

    Returns:
        the model, on the CPU, with random weights.

    Raises:
        InputError: what detectron2 or torch has against the config.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CENTER_COLLAPSE.LOGIT_ADJUSTMENT = False  # the class frequencies come later
    _check_resnet_features(cfg)
    model = _build("model", cfg, _MODEL)
    # SemSegFPNHead passes over unknown ones.
    select_features(
        model.backbone.output_shape(),
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES,
        "MODEL.SEM_SEG_HEAD.IN_FEATURES",
    )
    optimizer = _build(
        "optimizer", cfg, {"SOLVER": lambda cfg: build_optimizer(cfg, torch.nn.Linear(1, 1))}
    )
    _build("schedule", cfg, {"SOLVER": lambda cfg: build_lr_scheduler(cfg, optimizer)})
    _build("augmentation", cfg, {"INPUT": build_train_mapper})
    return model


def _not_empty(module: torch.nn.Module) -> torch.nn.Module:
    for name, weights in module.named_parameters():
        if weights.numel() == 0:
            raise ValueError(f"{name} would have the shape {tuple(weights.shape)}")
    return module


# By the groups of keys that describe them, what is built: the last is the whole, and needs those
# before it.
_Parts = dict[str, Callable[[CfgNode], Any]]
_MODEL: _Parts = {
    "MODEL.BACKBONE, MODEL.RESNETS, MODEL.FPN, MODEL.TIMM": (
        lambda cfg: _not_empty(build_backbone(cfg))
    ),
    "MODEL.SEM_SEG_HEAD": (
        lambda cfg: _not_empty(build_sem_seg_head(cfg, build_backbone(cfg).output_shape()))
    ),
    "MODEL": lambda cfg: _not_empty(build_model(cfg)),
}


def _build(what: str, cfg: CfgNode, parts: _Parts) -> Any:
    """What the last of the parts builds; InputError with the keys at fault where it cannot."""
    try:
        return list(parts.values())[-1](cfg)
    except InputError:
        raise
    except Exception as error:  # detectron2 asserts, and torch raises, whatever comes
        groups, build = next(
            (item for item in parts.items() if not _can(item[1], cfg)), list(parts.items())[-1]
        )
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{_keys_at_fault(cfg, groups, build)} describes no {what} that can be built: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _can(build: Callable[[CfgNode], Any], cfg: CfgNode) -> bool:
    try:
        build(cfg)
    except Exception:
        return False
    return True


def _keys_at_fault(cfg: CfgNode, groups: str, build: Callable[[CfgNode], Any]) -> str:
    """Those with whose defaults, each alone, the part could be built; or else its groups.

    Without those of names, which `check_names` has seen: another part might be built of anything.
    """
    defaults = load_config()
    found = []
    for group in groups.split(", "):
        for key in leaves(lookup(cfg, group), f"{group}."):
            parent, _, last = key.rpartition(".")
            if last == "NAME" or lookup(cfg, key) == lookup(defaults, key):
                continue
            other = cfg.clone()
            # Of some groups GN is the default, which cannot be had with any number of channels.
            lookup(other, parent)[last] = "BN" if last == "NORM" else lookup(defaults, key)
            if _can(build, other):
                found.append(key)
    return " or ".join(found) or groups


def check_batch(cfg: CfgNode, model: torch.nn.Module, num_processes: int) -> None:
    """Raises InputError for a batch in which a batch norm would see one value a channel.

    Args:
        model: of `check_buildable`.
        num_processes: that share SOLVER.IMS_PER_BATCH, on all machines.
    """
    # SyncBN is here of several processes only, and sees the images of all.
    has_batch_norm = cfg.MODEL.SEM_SEG_HEAD.NORM == "BN"
    is_one_each = cfg.SOLVER.IMS_PER_BATCH == num_processes
    if isinstance(model.sem_seg_head, UPerNetHead) and has_batch_norm and is_one_each:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is one image a process, which "
            "UPerNetHead pools to one place, but batch norm needs two to train: set it to "
            f"{2 * num_processes} or more, or MODEL.SEM_SEG_HEAD.NORM GN (SyncBN on several GPUs)"
        )


def check_weights(cfg: CfgNode, model: torch.nn.Module, args: Namespace) -> str:
    """Load what the run will start from into the model, to see that it can be loaded.

    So that it is known before the data set is read through, and before anything is written.

    Args:
        model: of `check_buildable`.
        args: of the command line, for `eval_only` and `resume`.

    Returns:
        The file, or "" for random weights.

    Raises:
        InputError: a checkpoint that is missing, broken, refused, of another model or of other
            classes; one that has done more iterations than SOLVER.MAX_ITER.
    """
    names = cfg.DATASETS.TEST if args.eval_only else cfg.DATASETS.TRAIN
    checkpointer = Checkpointer(
        model,
        cfg.OUTPUT_DIR,
        skip_mismatched=cfg.MODEL.WEIGHTS_SKIP_MISMATCHED,
        require_all=args.eval_only,
        classes=Classes.of_dataset(names[0]),
    )
    loaded = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    if loaded["is_resumed"] and not args.eval_only:
        check_max_iter(cfg.SOLVER.MAX_ITER, loaded.get("iteration", -1) + 1, loaded["file"])
    return loaded["file"]


def check_max_iter(max_iter: int, num_done: int, place: str) -> None:
    """Raise InputError if a training that is resumed has done more iterations than it shall do."""
    if num_done > max_iter:
        raise InputError(
            f"SOLVER.MAX_ITER is {max_iter}, but the training in {place} has done {num_done} "
            f"iterations. Set it to {num_done} or more, or start a new run without --resume."
        )


_RESNETS = ("build_resnet_backbone", "build_resnet_deeplab_backbone")
_RESNET_PYRAMIDS = ("build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone")


def _check_resnet_features(cfg: CfgNode) -> None:
    """What detectron2 asserts of its ResNets' features, without a word of the key."""
    name, given = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.OUT_FEATURES
    checks = []
    if name in (*_RESNETS, *_RESNET_PYRAMIDS):
        stages = ("stem", "res2", "res3", "res4", "res5")
        checks.append(("MODEL.RESNETS.OUT_FEATURES", given, stages))
    if name in _RESNET_PYRAMIDS:
        checks.append(("MODEL.FPN.IN_FEATURES", cfg.MODEL.FPN.IN_FEATURES, given))
    for key, found, possible in checks:
        if not found or not set(found) <= set(possible):
            raise InputError(f"{key} is {found}, expected some of {', '.join(possible)}")


def check_datasets(cfg: CfgNode, *, needs_training: bool) -> None:
    """Takes a NUM_CLASSES of 0 from the data sets, and holds them against the config.

    Raises:
        InputError: no data set is named, or one is unknown, not there, not for semantic
            segmentation, of one class (for a training), of other classes than another, without
            the instances that MASK_ON asks for, or at odds with NUM_CLASSES or IGNORE_VALUE.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    for key, names, is_needed in (
        ("DATASETS.TRAIN", cfg.DATASETS.TRAIN, needs_training),
        ("DATASETS.TEST", cfg.DATASETS.TEST, not needs_training),
    ):
        if is_needed and not names:
            raise InputError(f"{key} is empty: name a data set, or set DATASETS.FOLDER")
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if needs_training else cfg.DATASETS.TEST
    classes = list(metadata_of(names[0]).stuff_classes)
    if needs_training and len(classes) == 1:
        raise InputError(describe_single_class(f'"{names[0]}" has one class', classes))
    if head.NUM_CLASSES == 0:
        head.NUM_CLASSES = len(classes)
    if head.NUM_CLASSES != len(classes):
        raise InputError(
            f'MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but data set "{names[0]}" has '
            f"{len(classes)} classes: set it to {len(classes)} (or to 0, to take it from the data)"
        )
    for name in names:
        # A split that is not there is seen now, and not when it is evaluated.
        records = load_dataset(name)
        if needs_training and cfg.MODEL.MASK_ON and name in cfg.DATASETS.TRAIN:
            _check_instances(name, records)
        if list(metadata_of(name).stuff_classes) != classes:
            raise InputError(f'data sets "{names[0]}" and "{name}" have different classes')
        ignore_label = metadata_of(name).ignore_label
        if ignore_label != head.IGNORE_VALUE:
            raise InputError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, but pixels to ignore are "
                f'{ignore_label} in data set "{name}": set it to {ignore_label}'
            )


def _check_instances(name: str, records: list[dict]) -> None:
    lacking = [record for record in records if "annotations" not in record]
    is_crowd = [x.get("iscrowd", 0) for r in records for x in r.get("annotations", ())]
    if lacking or all(is_crowd):
        found = f"{len(lacking)} of its {len(records)} images" if lacking else "its images"
        raise InputError(
            f'MODEL.MASK_ON is True, but data set "{name}" has no instances to train on: {found} '
            'have none in "annotations". Name one that has, or set MODEL.MASK_ON False and '
            "MODEL.META_ARCHITECTURE RegularizedSemanticSegmentor"
        )


def check_test_images(cfg: CfgNode, model: torch.nn.Module) -> None:
    """Raises InputError for test images of a size that the model cannot take.

    Args:
        model: of `check_buildable`.
    """
    records = (record for name in cfg.DATASETS.TEST for record in load_dataset(name))
    check_pooling(cfg, model, map(_shape_of, records))


def _shape_of(record: dict) -> tuple[int, int]:
    if "height" in record and "width" in record:
        return record["height"], record["width"]
    return read_image_size(record["file_name"])
