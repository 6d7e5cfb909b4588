"""Build optimizers and schedules: detectron2's, AdamW, and an exactly resumable poly schedule."""

from functools import partial

import torch
from fvcore.common.param_scheduler import ParamScheduler

from sar.config import building
from sar.errors import InputError, nearest

from detectron2.config import CfgNode
from detectron2.solver import (
    LRMultiplier,
    WarmupParamScheduler,
    get_default_optimizer_params,
)
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping

OPTIMIZERS = ("SGD", "ADAMW")
SCHEDULES = ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR")


class PolyScheduler(ParamScheduler):
    """Learning-rate factor max((1 - t)^power, ending); t runs from 0 to 1 during training."""

    def __init__(self, power: float, ending: float):
        self.power, self.ending = power, ending

    def __call__(self, where: float) -> float:
        return max((1.0 - min(where, 1.0)) ** self.power, self.ending)


def longest_warmup(steps: int) -> int:
    """Return the largest SOLVER.WARMUP_ITERS that the project chooses: a tenth of a training."""
    return steps // 10


def check_solver(cfg: CfgNode) -> None:
    """Raise InputError for an unknown SOLVER.OPTIMIZER or SOLVER.LR_SCHEDULER_NAME."""
    for key, name, known in (
        ("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, OPTIMIZERS),
        ("SOLVER.LR_SCHEDULER_NAME", cfg.SOLVER.LR_SCHEDULER_NAME, SCHEDULES),
    ):
        if name not in known:
            raise InputError(
                f'unknown {key} "{name}".{nearest(name, known)} Known are {", ".join(known)}'
            )


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return SOLVER.OPTIMIZER, with detectron2's keys for rates, decay and gradient clipping.

    Raises:
        InputError: an unknown optimizer, or values that torch refuses.
    """
    check_solver(cfg)
    solver = cfg.SOLVER
    kinds = {
        "SGD": partial(torch.optim.SGD, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV),
        "ADAMW": torch.optim.AdamW,
    }
    with building(cfg, "optimizer", "SOLVER"):
        parameters = get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        )
        parameters = _scale_backbone_rate(parameters, model, solver.BACKBONE_MULTIPLIER)
        optimizer = kinds[solver.OPTIMIZER](
            parameters,
            lr=solver.BASE_LR,
            weight_decay=solver.WEIGHT_DECAY,
            # If scaled gradients overflow, the fused kernel itself skips the step. Without it,
            # torch waits for the device to check.
            fused=next(model.parameters()).is_cuda or None,
        )
    if solver.OPTIMIZER == "SGD" and solver.MOMENTUM:
        # torch creates the buffers in the first step; on a GPU, an overflow leaves them unset.
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    with building(cfg, "optimizer", "SOLVER.CLIP_GRADIENTS"):
        return maybe_add_gradient_clipping(cfg, optimizer)


def _scale_backbone_rate(groups: list[dict], model: torch.nn.Module, factor: float) -> list[dict]:
    """Multiply the learning rate of the backbone, without its feature pyramid, which is new.

    Args:
        groups: parameter groups, each with its "lr".
        model: has the attribute `backbone`, if the factor is not 1.

    Raises:
        InputError: the model has no backbone.
    """
    if factor == 1.0:
        return groups
    if not hasattr(model, "backbone"):
        raise InputError(
            f"SOLVER.BACKBONE_MULTIPLIER is {factor}, but {type(model).__name__} has no attribute "
            '"backbone": set it to 1.0'
        )
    backbone = getattr(model.backbone, "bottom_up", model.backbone)
    pretrained = {id(parameter) for parameter in backbone.parameters()}
    scaled = []
    for group in groups:
        for is_pretrained in (False, True):
            params = [p for p in group["params"] if (id(p) in pretrained) == is_pretrained]
            rate = group["lr"] * (factor if is_pretrained else 1.0)
            if params:
                scaled.append({**group, "params": params, "lr": rate})
    return scaled


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer):
    """Return SOLVER.LR_SCHEDULER_NAME; "WarmupPolyLR" reads the keys of detectron2's DeepLab.

    Its state holds only the iteration, so a run can be resumed with another MAX_ITER. (DeepLab's
    own schedule stores MAX_ITER, and cannot.)

    Raises:
        InputError: an unknown schedule, or values that detectron2 refuses.
    """
    check_solver(cfg)
    with building(cfg, "schedule", "SOLVER"):
        if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
            return build_detectron2_lr_scheduler(cfg, optimizer)
        schedule = WarmupParamScheduler(
            PolyScheduler(cfg.SOLVER.POLY_LR_POWER, cfg.SOLVER.POLY_LR_CONSTANT_ENDING),
            cfg.SOLVER.WARMUP_FACTOR,
            min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0),
            cfg.SOLVER.WARMUP_METHOD,
        )
        return LRMultiplier(optimizer, multiplier=schedule, max_iter=cfg.SOLVER.MAX_ITER)


def follow_base_rates(scheduler) -> None:
    """Rescale a resumed schedule to the base rates of the current config.

    Loading the state has restored the base rates of the earlier run.
    """
    groups = scheduler.optimizer.param_groups
    for group, before in zip(groups, scheduler.base_lrs, strict=True):
        if before:
            group["lr"] *= group["initial_lr"] / before
    scheduler.base_lrs = [group["initial_lr"] for group in groups]
