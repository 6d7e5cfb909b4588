"""One training step: forward, backward and update, without waiting for the device.

Losses stay on the device until `TrainingStep.fetch_losses` collects the losses of all steps since
its last call, from all processes. It also checks that losses and weights are finite, so it must be
called before a checkpoint is saved.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sar.errors import InputError, listed

from detectron2.utils import comm

logger = logging.getLogger(__name__)

_NUM_NAMED = 8  # files that an error names


@dataclass
class StepLosses:
    """The losses and the batch of one process in one iteration."""

    iteration: int
    data_time: float
    file_names: list[str]
    losses: dict[str, float]


class TrainingStep:
    """Train a model, one iteration per call.

    Args:
        model: returns a dict of losses for a batch, the same keys in every step.
        optimizer: of the model's parameters.
        seed: torch's generators are seeded from it, the iteration and the rank in each step, so
            that a resumed run repeats dropout without a saved state.
        precision: None for float32; torch.bfloat16 or torch.float16 for autocast. float16 also
            scales the gradients.
        waiting: returns a context manager around the wait for the next batch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        precision: torch.dtype | None = None,
        waiting: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.model = model.train()
        self.optimizer = optimizer
        self.seed = seed
        self.precision = precision
        self.waiting = waiting
        self.device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision is torch.float16)
        self.data_loader: Iterable[list[dict]] = ()
        self._batches: Iterator[list[dict]] | None = None
        self._waiting: list[tuple[int, float, list[str], list[str], torch.Tensor]] = []
        # Arrays that are finite at the start. Others, such as masks of attention, never are.
        self._is_watched = _finite(model)

    def run(self, iteration: int) -> None:
        """Take the next batch of `data_loader` and update the weights.

        Raises:
            InputError: in the first step, if several processes cannot train the model.
        """
        is_first = self._batches is None
        if is_first:
            self._batches = iter(self.data_loader)
        start = time.perf_counter()
        with self.waiting():
            batch = next(self._batches)
        data_time = time.perf_counter() - start
        _seed_generators(self.seed, iteration)
        batch = [_on_device(sample, self.device) for sample in batch]
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            losses = self.model(batch)
        self.scaler.scale(sum(losses.values())).backward()
        if is_first:
            _require_all_gradients(self.model)
        self.scaler.unscale_(self.optimizer)  # gradients are clipped in the optimizer's step
        self.scaler.step(self.optimizer)
        self.scaler.update()
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        file_names = [str(sample.get("file_name")) for sample in batch]
        self._waiting.append((iteration, data_time, file_names, list(losses), values))

    def fetch_losses(self) -> list[list[StepLosses]]:
        """Return the losses of all processes (in the order of ranks) since the last call, by step.

        Waits for the device and for the other processes: all must call it in the same iteration.

        Raises:
            InputError: a loss, or an array of the model, is not finite; in all processes.
        """
        if not self._waiting:
            return []
        values = iter(torch.cat([values for *_, values in self._waiting]).tolist())
        steps = [
            StepLosses(iteration, data_time, file_names, {name: next(values) for name in names})
            for iteration, data_time, file_names, names, _ in self._waiting
        ]
        self._waiting.clear()
        broken = [
            name
            for name, is_finite in _finite(self.model).items()
            if self._is_watched[name] and not is_finite
        ]
        of_processes = comm.all_gather((steps, broken))
        by_step = list(zip(*(steps for steps, _ in of_processes), strict=True))
        for step in by_step:
            _require_same_losses(step)
            _require_finite_losses(step)
        for _, names in of_processes:
            if names:
                raise InputError(
                    f"the weights are no longer finite after iteration {steps[-1].iteration}, "
                    f"though its losses are ({_values(steps[-1].losses)}): {listed(names, 3)}. "
                    f"Its batch was {_files(steps[-1])}. {_ADVICE}"
                )
        return [list(step) for step in by_step]

    def state_dict(self) -> dict:
        """Return the state of the optimizer and of the gradient scaler."""
        return {"optimizer": self.optimizer.state_dict(), "grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Load a state, but keep the hyper-parameters of the present config, except the rate "lr".

        Raises:
            InputError: the state belongs to another optimizer, or to other weights.
        """
        saved = state["optimizer"]
        for group in saved["param_groups"]:
            if ("betas" in group) != ("betas" in self.optimizer.defaults):
                raise InputError(
                    "it was trained with another optimizer: set SOLVER.OPTIMIZER to that, or start "
                    "from it as MODEL.WEIGHTS, without --resume"
                )
        built = [
            {key: value for key, value in group.items() if key not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]
        _log_changes(saved["param_groups"], built)
        # torch raises an error if the number of groups differs.
        groups = [old | new for old, new in zip(saved["param_groups"], built, strict=False)]
        groups += saved["param_groups"][len(groups) :]
        try:
            self.optimizer.load_state_dict({**saved, "param_groups": groups})
        except (KeyError, ValueError) as error:
            raise InputError(
                "it was trained with another model or solver: give MODEL and SOLVER as they are in "
                f"the config.yaml next to it ({error})"
            ) from error
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                # With another MODEL.CHANNELS_LAST, the strides differ from the parameter's. The
                # fused optimizers need the same strides.
                is_alike = torch.is_tensor(value) and value.shape == parameter.shape
                if is_alike and value.stride() != parameter.stride():
                    values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if self.scaler.is_enabled() and state.get("grad_scaler"):
            self.scaler.load_state_dict(state["grad_scaler"])


_ADVICE = (
    "The last good checkpoint is as it was. Look at these images and their labels; lower "
    "SOLVER.BASE_LR, or set SOLVER.CLIP_GRADIENTS.ENABLED True, and go on with --resume"
)


def _log_changes(saved: list[dict], built: list[dict]) -> None:
    changes = {
        f"{key} {old[key]} -> {new[key]}": None  # in order, and once for all groups
        for old, new in zip(saved, built, strict=False)
        for key in new
        if key in old and key != "fused" and old[key] != new[key]  # as the device can
    }
    if changes:
        logger.info(f"The solver goes on with other hyper-parameters: {', '.join(changes)}")


def _seed_generators(seed: int, iteration: int) -> None:
    sequence = np.random.SeedSequence([seed, iteration, comm.get_rank()])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def _on_device(sample: dict, device: torch.device) -> dict:
    """Copy the tensors of a sample to the device, without waiting for pinned tensors."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in sample.items()
    }


@torch.no_grad()
def _finite(model: nn.Module) -> dict[str, bool]:
    """Return by name whether each array of the model is finite."""
    arrays = {
        name: value
        for name, value in (*model.named_parameters(), *model.named_buffers())
        if value.is_floating_point()
    }
    sums = torch.stack([value.sum(dtype=torch.float32) for value in arrays.values()])
    return dict(zip(arrays, sums.isfinite().tolist(), strict=True))


def _require_all_gradients(model: nn.Module) -> None:
    """Raise InputError if a parameter has no gradient: DistributedDataParallel waits for it."""
    if not isinstance(model, DistributedDataParallel):
        return
    parameters = model.module.named_parameters()
    names = [name for name, value in parameters if value.requires_grad and value.grad is None]
    if names:
        raise InputError(
            f"no loss depends on {len(names)} of the model's parameters "
            f"({listed(names)}), and several processes can train only what has gradients: "
            "have the head read all features that the backbone makes "
            "(MODEL.SEM_SEG_HEAD.IN_FEATURES), leave out of the model what is not used, or set "
            "requires_grad of these parameters to False"
        )


def _require_same_losses(step: Iterable[StepLosses]) -> None:
    names = [list(seen.losses) for seen in step]
    if any(others != names[0] for others in names):
        raise InputError(
            f"in iteration {step[0].iteration} the processes have different losses "
            f"({'; '.join(', '.join(each) for each in names)}): a model has to return all of its "
            "losses in every step, and 0 for a loss without a target"
        )


def _require_finite_losses(step: Iterable[StepLosses]) -> None:
    bad = [seen for seen in step if not np.isfinite(list(seen.losses.values())).all()]
    if bad:
        raise InputError(
            f"the loss is not finite in iteration {bad[0].iteration}: "
            + "; ".join(f"{_values(seen.losses)}, in the batch of {_files(seen)}" for seen in bad)
            + f". {_ADVICE}"
        )


def _values(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())


def _files(seen: StepLosses) -> str:
    return listed(seen.file_names, _NUM_NAMED)
