"""Hooks that run between the steps of a training."""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from sar.errors import describe_exception
from sar.regularizers import PrototypeRegularizer, SemanticAnchorRegularizer

from detectron2.engine import hooks
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter

logger = logging.getLogger(__name__)

# Iterations between two lines of metrics.json. Each line waits for the device.
LOG_PERIOD = 20


def is_due(iteration: int, period: int) -> bool:
    """Return True every `period` iterations; a period of 0 means never."""
    return period > 0 and (iteration + 1) % period == 0


class WritingHooks(HookBase):
    """Run hooks that write to OUTPUT_DIR as one hook, in order; errors as in `Trainer.writing`."""

    def __init__(self, *sequence: HookBase) -> None:
        self.sequence = sequence

    def before_train(self) -> None:
        with self.trainer.writing():
            for hook in self.sequence:
                hook.trainer = self.trainer
                hook.before_train()

    def after_step(self) -> None:
        with self.trainer.writing():
            for hook in self.sequence:
                hook.after_step()

    def after_train(self) -> None:
        with self.trainer.writing():
            for hook in self.sequence:
                hook.after_train()


class FirstLosses(HookBase):
    """Log the losses and the estimated time left after the first step of this start.

    Nothing is written to `metrics.json`, so that it does not depend on interruptions of the run.
    """

    def before_step(self) -> None:
        self._start = time.monotonic()

    def after_step(self) -> None:
        trainer = self.trainer
        if trainer.iter != trainer.start_iter:
            return
        trainer.record_losses()
        seconds = time.monotonic() - self._start
        left = timedelta(seconds=round(seconds * (trainer.max_iter - trainer.iter - 1)))
        losses = (
            f"{name}: {value:.4g}"
            for name, (value, _) in trainer.storage.latest().items()
            if "loss" in name
        )
        logger.info(
            f"First step, iteration {trainer.iter}: {', '.join(losses)}; {seconds:.2f} s, "
            f"about {left} left at this pace"
        )


class GateLogger(HookBase):
    """Log if gates are open (0 or 1), together with the losses, under the names in NAMES.

    Args:
        model: a model; without a regularizer that has a gate, nothing is logged.
    """

    NAMES = {
        SemanticAnchorRegularizer: "sar/gate_is_open",
        PrototypeRegularizer: "sar/prototype_gate_is_open",
    }

    def __init__(self, model: nn.Module) -> None:
        self.regularizers = [
            (name, module)
            for module in model.modules()
            for kind, name in self.NAMES.items()
            if isinstance(module, kind)
        ]

    def after_step(self) -> None:
        if is_due(self.trainer.iter, LOG_PERIOD):
            for name, regularizer in self.regularizers:
                is_open = float(regularizer.gate_is_open)
                self.trainer.storage.put_scalar(name, is_open, smoothing_hint=False)


class PreciseBN(hooks.PreciseBN):
    """detectron2's precise BN, always on the same images, so that a resumed run is identical.

    Only the statistics of batch normalisation change. Other buffers (SAR's memory, the pixels that
    Seesaw counts) are restored.

    Args:
        build_loader: returns a loader of training batches that starts with the first.
    """

    def __init__(
        self, period: int, model: nn.Module, build_loader: Callable, num_iter: int
    ) -> None:
        super().__init__(period, model, None, num_iter)
        self._build_loader = build_loader

    def update_stats(self) -> None:
        statistics = {id(x) for layer in get_bn_modules(self._model) for x in layer.buffers()}
        buffers = list(self._model.buffers())
        before = [buffer.clone() for buffer in buffers]
        self._data_iter = self._batches()
        changed = set()
        try:
            super().update_stats()
            changed = statistics
        finally:
            self._data_iter = None  # ends the loader's workers, too
            for buffer, value in zip(buffers, before, strict=True):
                if id(buffer) not in changed:
                    buffer.copy_(value)

    def after_step(self) -> None:
        try:
            super().after_step()
        except SystemExit:
            self.trainer.save_unfinished_step()
            comm.synchronize()  # a process that leaves early ends the others
            raise

    def _batches(self) -> Iterator[list[dict]]:
        """Yield batches; after a SIGTERM, end all processes at the same batch."""
        sigterm = self.trainer.sigterm
        batches = iter(self._build_loader())
        while True:
            if sigterm.is_received_by_any():
                sigterm.exit()
            with sigterm.interrupts():
                batch = next(batches)
            yield batch


class StopAtSigterm(HookBase):
    """After a SIGTERM, save a checkpoint and end all processes at the same iteration.

    This hook comes before the hooks that evaluate, write and save, which can take long. A resumed
    run makes up for them. A vote starts in each step and is read in the next, so no step waits.
    """

    def before_train(self) -> None:
        self._vote = None

    def before_step(self) -> None:
        self._start = time.monotonic()

    def after_step(self) -> None:
        self.trainer.sigterm.allow(2 * (time.monotonic() - self._start))
        if comm.get_world_size() == 1:
            must_stop = self.trainer.sigterm.is_received
        else:
            must_stop = self._count_votes()
        if must_stop:
            self.trainer.save_unfinished_step()
            comm.synchronize()  # a process that leaves early ends the others
            self.trainer.sigterm.exit()

    def _count_votes(self) -> bool:
        must_stop = False
        if self._vote is not None:
            ballot, work = self._vote
            work.wait()
            must_stop = bool(ballot)
        self._vote = self.trainer.sigterm.vote()
        return must_stop


class EvalHook(hooks.EvalHook):
    """detectron2's hook; after a SIGTERM in an evaluation, save the state from before it.

    The resumed run evaluates again.
    """

    def __init__(self, eval_period: int, eval_function: Callable) -> None:
        def evaluate() -> dict:
            with self.trainer.sigterm.ends(self._save):
                return eval_function()

        super().__init__(eval_period, evaluate)

    def _save(self) -> None:
        if self.trainer.iter < self.trainer.max_iter:  # after the last step, model_final.pth exists
            self.trainer.save_unfinished_step()


class PeriodicWriter(hooks.PeriodicWriter):
    """detectron2's hook, which also writes after each evaluation.

    So the results of an iteration are written before its checkpoint. Files are opened in
    `before_train`, when the first iteration is known.

    Args:
        build_writers: returns the writers of the main process.
        eval_period: TEST.EVAL_PERIOD.
    """

    def __init__(self, build_writers: Callable[[], list[EventWriter]], eval_period: int) -> None:
        super().__init__([], LOG_PERIOD)
        self._build_writers = build_writers
        self._eval_period = eval_period

    def before_train(self) -> None:
        self._writers = self._build_writers() if comm.is_main_process() else []

    @property
    def writes_images(self) -> bool:
        """True if a writer of this process writes (and clears) the images in the storage."""
        return any(isinstance(writer, TensorboardXWriter) for writer in self._writers)

    def after_step(self) -> None:
        if is_due(self.trainer.iter, self._eval_period):
            for writer in self._writers:
                writer.write()
        else:
            super().after_step()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()
        while self._writers:
            self._writers.pop(0).close()

    def close(self) -> None:
        """Close the writers that are still open, because the training failed or was stopped.

        An error of a writer is only logged: it must not hide why the training ended.
        """
        while self._writers:
            writer = self._writers.pop(0)
            try:
                writer.close()
            except Exception as error:  # a tracker can raise anything
                name = type(writer).__name__
                logger.warning(f"{name} cannot be closed: {describe_exception(error)}")
