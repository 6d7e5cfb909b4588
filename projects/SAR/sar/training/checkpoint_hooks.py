"""Write the checkpoints of a training, and the file for predictions."""

import logging
import math

from sar.checkpoints.checkpointer import Checkpointer
from sar.errors import listed, nearest
from sar.training.hooks import is_due

from detectron2.engine.train_loop import HookBase

logger = logging.getLogger(__name__)


class CheckpointHook(HookBase):
    """Save the state every `period` iterations, at the end, and when a metric is the best so far.

    This is the last hook, so evaluation and log of an iteration are on the disk before its
    checkpoint. A run that is resumed there repeats and misses nothing. Only the last evaluation
    comes after its checkpoint; if a run is killed in it, the resumed run evaluates.

    Args:
        period: in iterations.
        eval_period: as in EvalHook; 0 for an evaluation at the end only.
        best_metric: name of a scalar of the evaluation, such as "sem_seg/mIoU", see
            `Checkpointer.save_best`; "" for no best checkpoint.
    """

    def __init__(
        self, checkpointer: Checkpointer, period: int, *, eval_period: int, best_metric: str = ""
    ) -> None:
        self.checkpointer = checkpointer
        self.period = period
        self.eval_period = eval_period
        self.best_metric = best_metric
        self._has_warned = False

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if iteration + 1 >= self.trainer.max_iter:
            self.checkpointer.save("model_final", iteration=iteration)
            return
        if is_due(iteration, self.eval_period):
            self._save_if_best(iteration)
        if is_due(iteration, self.period):
            self.checkpointer.save_iteration(iteration)

    def after_train(self) -> None:
        self._save_if_best(self.trainer.max_iter - 1)

    def _save_if_best(self, iteration: int) -> None:
        scalars = self.trainer.storage.latest()
        if self.best_metric in scalars:
            value, written_at = scalars[self.best_metric]
            if written_at != self.trainer.storage.iter:
                return
            if not math.isfinite(value) and not self._has_warned:
                self._has_warned = True
                logger.warning(
                    f"TEST.BEST_METRIC {self.best_metric} is {value} in this evaluation, which "
                    "never makes a model_best.pth. It is NaN if no test label has the class"
                )
            self.checkpointer.save_best(self.best_metric, value, iteration)
        elif self.best_metric and self.checkpointer.save_to_disk:
            # With several test sets, the name of the set comes first.
            of_sets = [name for name in scalars if name.endswith(f"/{self.best_metric}")]
            hint = f" Choose {listed(of_sets)}" if of_sets else nearest(self.best_metric, scalars)
            logger.warning(
                f'No model_best.pth is kept: TEST.BEST_METRIC "{self.best_metric}" is not a metric '
                f"of this evaluation.{hint}"
            )
            self.best_metric = ""


class InferenceFileHook(HookBase):
    """Write model_inference.pth after a training that reached its last iteration.

    The weights equal the weights in model_final.pth. If a run is killed before or during the write,
    the resumed run writes the file.

    Args:
        config: from `sar.config.portable_config`.
    """

    def __init__(self, checkpointer: Checkpointer, config: str) -> None:
        self.checkpointer = checkpointer
        self.config = config

    def after_train(self) -> None:
        self.checkpointer.save_for_inference(self.config, self.trainer.max_iter - 1)
