"""The few lines about a run that the console shows before the first step."""

import platform

import torch
from torch import nn

import sar
from sar.data.class_frequency import ClassFrequency
from sar.data.units import units_of_config
from sar.errors import printable
from sar.training.class_balance import describe_balance

import detectron2
from detectron2.config import CfgNode
from detectron2.utils import comm


def describe_versions() -> str:
    """Return the versions of the project and of the packages it runs on, in one line."""
    return (
        f"detectron2-sar {sar.__version__}, detectron2 {detectron2.__version__}, "
        f"PyTorch {torch.__version__}, Python {platform.python_version()}"
    )


def describe_training(cfg: CfgNode, model: nn.Module, frequency: ClassFrequency | None) -> str:
    """Return model, data, device and schedule of a training, one line each.

    A table of class weights and repeat factors follows, if the training has any.

    Args:
        frequency: the counts of the training set, if they are known.
    """
    lines = {
        "model": _describe_model(cfg, model),
        "training set": _describe_data(cfg, frequency),
        "test set": ", ".join(cfg.DATASETS.TEST) or "none",
        "device": _describe_device(cfg),
        "schedule": _describe_schedule(cfg, frequency),
        "output": f"{cfg.OUTPUT_DIR} (log.txt also has the layers, the config and the environment)",
    }
    text = "\n".join(f"  {name + ':':14}{printable(text)}" for name, text in lines.items())
    balance = describe_balance(cfg, model, frequency) if frequency else ""
    return f"{text}\n{balance}".rstrip()


def _describe_model(cfg: CfgNode, model: nn.Module) -> str:
    backbone = cfg.MODEL.BACKBONE.NAME
    if "timm" in backbone:
        backbone += f" ({cfg.MODEL.TIMM.NAME})"
    elif "resnet" in backbone:
        backbone += f" (depth {cfg.MODEL.RESNETS.DEPTH})"
    parts = [cfg.MODEL.META_ARCHITECTURE, backbone, cfg.MODEL.SEM_SEG_HEAD.NAME]
    if size := cfg.INPUT.POINTS.VOXEL_SIZE:
        parts = [cfg.MODEL.META_ARCHITECTURE, f"voxels of {size:g}"]
    parts += cfg.MODEL.REGULARIZERS or ["no regularizer"]
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"{', '.join(parts)}; {millions:.1f} M parameters"


def _describe_data(cfg: CfgNode, frequency: ClassFrequency | None) -> str:
    names = ", ".join(cfg.DATASETS.TRAIN)
    if frequency is None:
        return names
    pixels, name = min(zip(frequency.pixels, frequency.class_names, strict=True))
    share = 100 * pixels / max(1, sum(frequency.pixels))
    units = units_of_config(cfg)
    return (
        f"{names}; {frequency.num_images} {units.sample}s, {len(frequency.pixels)} classes, "
        f"rarest {name} ({share:.2g}% of the labelled {units.part}s)"
    )


def _describe_device(cfg: CfgNode) -> str:
    device = cfg.MODEL.DEVICE
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name(device)
    number = comm.get_world_size()
    return f"{device}, {number} process{'es' if number > 1 else ''}"


def _describe_schedule(cfg: CfgNode, frequency: ClassFrequency | None) -> str:
    solver = cfg.SOLVER
    images = solver.MAX_ITER * solver.IMS_PER_BATCH
    epochs = f" ({images / frequency.num_images:.3g} epochs)" if frequency else ""
    return (
        f"{solver.MAX_ITER} iterations with a batch of {solver.IMS_PER_BATCH}{epochs}; "
        f"{solver.OPTIMIZER}, {solver.LR_SCHEDULER_NAME}, learning rate {solver.BASE_LR:g}"
    )
