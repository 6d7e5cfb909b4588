import math

import pytest
import torch
from torch import nn

from sar.checkpoints.checkpointer import Checkpointer
from sar.training.checkpoint_hooks import CheckpointHook, InferenceFileHook

from detectron2.engine.hooks import EvalHook
from detectron2.engine.train_loop import TrainerBase

NAMES = ("mIoU", "Loss")


class Trainer(TrainerBase):
    """Counts its steps, and evaluates to the values it is given."""

    def __init__(self, folder, values, *, period, eval_period, metric="sem_seg/mIoU"):
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.checkpointer = Checkpointer(self.model, str(folder), trainer=self)
        self.values = iter(values)
        self.register_hooks(
            [
                EvalHook(eval_period, lambda: {"sem_seg": dict.fromkeys(NAMES, next(self.values))}),
                CheckpointHook(
                    self.checkpointer, period, eval_period=eval_period, best_metric=metric
                ),
            ]
        )

    def run_step(self):
        nn.init.constant_(self.model.weight, self.iter)

    def after_train(self):
        if self.iter >= self.max_iter:  # detectron2's loop also calls it after an error
            super().after_train()

    def state_dict(self):
        return {"iteration": self.iter}

    def load_state_dict(self, state_dict):
        self.iter = state_dict["iteration"]


def saved(folder):
    """The iteration that each checkpoint says it is of, and which its weight is of, too."""
    found = {}
    for path in folder.glob("*.pth"):
        content = torch.load(path)
        assert content["model"]["weight"].item() == content["iteration"]
        found[path.stem] = content["iteration"]
    return found


def test_states_are_saved_every_period_at_the_end_and_where_they_were_best(tmp_path):
    Trainer(tmp_path, [30, 50, 40], period=3, eval_period=2).train(0, 6)
    assert saved(tmp_path) == {"model_0000002": 2, "model_final": 5, "model_best": 3}
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_the_last_evaluation_can_be_the_best(tmp_path):
    Trainer(tmp_path, [30, 40, 50], period=3, eval_period=2).train(0, 6)
    assert saved(tmp_path)["model_best"] == 5
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_the_lowest_loss_is_the_best(tmp_path):
    values = [0.7, math.nan, 0.3, 0.5]
    Trainer(tmp_path, values, period=99, eval_period=2, metric="sem_seg/Loss").train(0, 8)
    assert saved(tmp_path) == {"model_final": 7, "model_best": 5}


def test_evaluation_at_the_end_only(tmp_path):
    Trainer(tmp_path, [math.nan], period=100, eval_period=0).train(0, 6)
    assert saved(tmp_path) == {"model_final": 5}
    Trainer(tmp_path, [1.0], period=100, eval_period=0).train(0, 6)
    assert saved(tmp_path) == {"model_final": 5, "model_best": 5}


def test_a_finished_run_that_is_resumed_is_evaluated_only(tmp_path):
    Trainer(tmp_path, [30], period=100, eval_period=0, metric="").train(0, 6)
    resumed = Trainer(tmp_path, [50], period=100, eval_period=0)
    assert resumed.checkpointer.start_run("", resume=True)
    resumed.train(resumed.iter + 1, 6)
    assert saved(tmp_path) == {"model_final": 5, "model_best": 5}


def test_a_mistyped_metric_is_said_once_at_the_first_evaluation(tmp_path, caplog):
    Trainer(tmp_path, [30, 50, 40], period=3, eval_period=2, metric="sem_seg/mIuO").train(0, 6)
    assert "model_best" not in saved(tmp_path)
    assert caplog.text.count("No model_best.pth is kept") == 1
    assert 'Did you mean "sem_seg/mIoU"?' in caplog.text


def test_a_metric_that_is_never_a_number_is_said_once(tmp_path, caplog):
    Trainer(tmp_path, [math.nan, math.nan, math.nan], period=3, eval_period=2).train(0, 6)
    assert "model_best" not in saved(tmp_path)
    (message,) = [text for text in caplog.messages if "BEST_METRIC" in text]
    assert "is nan in this evaluation" in message and "no test label has the class" in message


def test_no_best_is_kept_where_none_is_asked_for(tmp_path, caplog):
    Trainer(tmp_path, [30, 50, 40], period=3, eval_period=2, metric="").train(0, 6)
    assert "model_best" not in saved(tmp_path) and not caplog.text


def test_the_file_for_inference_is_written_at_the_end_also_by_a_resumed_run(tmp_path, monkeypatch):
    def start(folder, fails_at=6):
        trainer = Trainer(folder, [1, 1, 1], period=2, eval_period=3)
        trainer.register_hooks([InferenceFileHook(trainer.checkpointer, "SEED: 1")])
        resumes = trainer.checkpointer.start_run("", resume=True)
        steps = iter(range(fails_at))

        def run_step():
            next(steps)
            Trainer.run_step(trainer)

        trainer.run_step = run_step
        trainer.train(trainer.iter + 1 if resumes else 0, 6)
        return trainer

    with pytest.raises(StopIteration):
        start(tmp_path, fails_at=5)
    assert "model_inference" not in saved(tmp_path)

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpointer, "save_for_inference", fail)
        start(tmp_path)
    assert "model_inference" not in saved(tmp_path)
    start(tmp_path)
    assert saved(tmp_path)["model_inference"] == 5
    (tmp_path / "model_final.pth").unlink()
    assert start(tmp_path).iter == 6  # never resumed from: iterations 4 and 5 are repeated
