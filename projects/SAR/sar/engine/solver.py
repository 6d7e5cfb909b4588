"""Optimizers and schedules: detectron2's, AdamW, and a poly schedule that resumes exactly."""

import torch
from fvcore.common.param_scheduler import ParamScheduler

from sar.errors import InputError, nearest

from detectron2.config import CfgNode
from detectron2.solver import (
    LRMultiplier,
    WarmupParamScheduler,
    get_default_optimizer_params,
)
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import maybe_add_gradient_clipping

SCHEDULES = ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR")


class PolyScheduler(ParamScheduler):
    """Learning-rate factor max((1 - t)^power, ending) at the share t of the training."""

    def __init__(self, power: float, ending: float):
        self.power, self.ending = power, ending

    def __call__(self, where: float) -> float:
        return max((1.0 - min(where, 1.0)) ** self.power, self.ending)


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER with detectron2's keys for rates, decay and gradient clipping.

    Raises:
        InputError: an unknown optimizer.
    """
    if cfg.SOLVER.OPTIMIZER == "SGD":
        return build_sgd(cfg, model)
    if cfg.SOLVER.OPTIMIZER == "ADAMW":
        parameters = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        )
        optimizer = torch.optim.AdamW(
            parameters, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY
        )
        return maybe_add_gradient_clipping(cfg, optimizer)
    known = ("SGD", "ADAMW")
    raise InputError(
        f'unknown SOLVER.OPTIMIZER "{cfg.SOLVER.OPTIMIZER}".{nearest(cfg.SOLVER.OPTIMIZER, known)} '
        f"Known are {', '.join(known)}"
    )


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer):
    """SOLVER.LR_SCHEDULER_NAME; "WarmupPolyLR" takes the keys of detectron2's DeepLab.

    Its state is the iteration alone, so that a run may be resumed with another MAX_ITER
    (DeepLab's own stores MAX_ITER and fails there).

    Raises:
        InputError: an unknown schedule.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in SCHEDULES:
        raise InputError(
            f'unknown SOLVER.LR_SCHEDULER_NAME "{name}".{nearest(name, SCHEDULES)} '
            f"Known are {', '.join(SCHEDULES)}"
        )
    if name != "WarmupPolyLR":
        return build_detectron2_lr_scheduler(cfg, optimizer)
    schedule = WarmupParamScheduler(
        PolyScheduler(cfg.SOLVER.POLY_LR_POWER, cfg.SOLVER.POLY_LR_CONSTANT_ENDING),
        cfg.SOLVER.WARMUP_FACTOR,
        min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0),
        cfg.SOLVER.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=cfg.SOLVER.MAX_ITER)
