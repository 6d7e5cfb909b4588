"""Measure how long a training will take on this machine, by a few steps of it."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from statistics import mean

import torch

from sar.data.class_frequency import ClassFrequency, note_class_frequency
from sar.data.datasets import load_dataset
from sar.data.units import IMAGES, Units, units_of_config
from sar.modeling.inference import inference_model
from sar.preflight.checks import check_batch
from sar.preflight.device import choose_device
from sar.preflight.prepare import complete_config
from sar.training.step import TrainingStep
from sar.training.trainer import Trainer

from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

_WARMUP = 2  # calls that are not counted
_LEAST, _MOST = 3, 20  # calls that are counted
_SECONDS = 30.0  # no call starts later, unless fewer than _LEAST are done


@dataclass(frozen=True)
class Duration:
    """Measured times of a training.

    Attributes:
        step: mean seconds of a training step, with the loading of its images.
        num_measured: number of steps that were measured.
        num_steps: steps of the whole training.
        image: mean seconds to evaluate an image; 0 without evaluation.
        num_images: images of one evaluation.
        num_evaluations: evaluations of the whole training.
        device: the name of the measured device.
        units: what the text calls the images.
    """

    step: float
    num_measured: int
    num_steps: int
    image: float
    num_images: int
    num_evaluations: int
    device: str
    units: Units = IMAGES

    @property
    def seconds(self) -> float:
        """Expected seconds of the whole training."""
        return self.num_steps * self.step + self.num_evaluations * self.num_images * self.image

    def describe(self) -> str:
        """Return the expected time, and how it was measured, in one line."""
        parts = [f"{self.num_steps:,} steps of {self.step:.3g} s"]
        if self.num_evaluations:
            plural = "s" if self.num_evaluations > 1 else ""
            parts.append(
                f"{self.num_evaluations} evaluation{plural} of {self.num_images} "
                f"{self.units.sample}s at {self.image:.3g} s"
            )
        return (
            f"About {in_words(self.seconds)} for {' and '.join(parts)}. Measured on this machine, "
            f"as busy as it is, with {self.device}: {self.num_measured} steps, after {_WARMUP} for "
            f"warm-up. An hour is enough for {3600 / self.step:,.0f} steps without evaluation."
        )


def measure_duration(cfg: CfgNode, frequency: ClassFrequency) -> Duration:
    """Train the model of a config for a few steps, and evaluate a few images.

    The weights are random, and no file is written.

    Args:
        cfg: from `load_config`, with data sets.
        frequency: counts of the training set.

    Raises:
        InputError: a problem in the config or the data sets; an image cannot be read.
    """
    cfg = cfg.clone()
    # The time of a step does not depend on the weights.
    cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.CHECKPOINT = False, ""
    choose_device(cfg)
    complete_config(cfg, trains=True)
    check_batch(cfg, 1)
    note_class_frequency(cfg, frequency)
    model = Trainer.build_model(cfg)
    precision = getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None
    step = TrainingStep(model, Trainer.build_optimizer(cfg, model), seed=0, precision=precision)
    step.data_loader = Trainer.build_train_loader(cfg)
    with EventStorage():  # detectron2's heads for instances write to it
        steps = list(_seconds_of(lambda: step.run(0), cfg.MODEL.DEVICE))
    model.eval()
    image, num_images = 0.0, 0
    if cfg.DATASETS.TEST:
        num_images = sum(len(load_dataset(name)) for name in cfg.DATASETS.TEST)
        loader = Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
        samples = chain.from_iterable(repeat(loader))
        predict = inference_model(cfg, model)
        with torch.no_grad():
            image = mean(_seconds_of(lambda: predict(next(samples)), cfg.MODEL.DEVICE))
    return Duration(
        step=mean(steps),
        num_measured=len(steps),
        num_steps=cfg.SOLVER.MAX_ITER,
        image=image,
        num_images=num_images,
        num_evaluations=num_evaluations(cfg) if num_images else 0,
        device=_describe_device(cfg),
        units=units_of_config(cfg),
    )


def num_evaluations(cfg: CfgNode) -> int:
    """Return how often a training evaluates: every TEST.EVAL_PERIOD steps, and at its end."""
    period = cfg.TEST.EVAL_PERIOD
    return math.ceil(cfg.SOLVER.MAX_ITER / period) if period > 0 else 1


def _seconds_of(call: Callable[[], object], device: str) -> Iterator[float]:
    """Yield the seconds of each of several calls, which compute on a device."""
    end = time.perf_counter() + _SECONDS
    for number in range(_WARMUP + _MOST):
        start = time.perf_counter()
        if start > end and number >= _WARMUP + _LEAST:
            return
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        if number >= _WARMUP:
            yield time.perf_counter() - start


def in_words(seconds: float) -> str:
    """Return a time as "40 s", "12 min" or "3 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 100 else f"{minutes} min"


def _describe_device(cfg: CfgNode) -> str:
    if cfg.MODEL.DEVICE.startswith("cuda"):
        return f"one {torch.cuda.get_device_name(cfg.MODEL.DEVICE)}"
    number = torch.get_num_threads()
    return f"the CPU ({number} thread{'s' if number > 1 else ''})"
