"""The files in docs/tracking.md, with stand-ins for wandb and mlflow of the same interface."""

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from torch import nn

from sar import user_code
from sar.config import load_config
from sar.training import trainer
from sar.training.hooks import EvalHook, PeriodicWriter
from sar.training.trainer import Trainer
from sar.user_code import import_modules

from detectron2.engine.train_loop import TrainerBase

PAGE = (Path(__file__).parents[1] / "docs" / "tracking.md").read_text()
FILES = dict(re.findall(r"^```python\n# ([\w.]+)\n(.*?)^```$", PAGE, re.S | re.M))


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The calls of wandb and mlflow, after the files of the page were imported."""
    calls = {"wandb": [], "mlflow": []}

    def recorder(library, name, result=None):
        def record(*args, **kwargs):
            calls[library].append((name, args, kwargs))
            return result

        return record

    run = SimpleNamespace(log=recorder("wandb", "log"), finish=recorder("wandb", "finish"))
    stubs = {
        "wandb": {"init": recorder("wandb", "init", run)},
        "mlflow": {
            name: recorder("mlflow", name)
            for name in ("set_experiment", "start_run", "log_text", "log_metrics", "end_run")
        },
    }
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, functions in stubs.items():
        stub = ModuleType(name)
        vars(stub).update(functions)
        monkeypatch.setitem(sys.modules, name, stub)
    functions = []
    for module in (user_code, trainer):
        monkeypatch.setattr(module, "writer_functions", functions)
    assert list(FILES) == ["my_wandb.py", "my_mlflow.py"]
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    for _ in range(2):  # the second time changes nothing
        import_modules([str(tmp_path / name) for name in FILES])
    assert len(functions) == 2
    yield calls
    for name in FILES:
        del sys.modules[name.removesuffix(".py")]


class Steps(TrainerBase):
    """Log a loss in every step, and an evaluation every 20 steps."""

    def __init__(self, build_writers):
        super().__init__()
        self.model = nn.Linear(1, 1)
        metrics = iter([{"sem_seg": {"mIoU@r": 30.0}}, {"sem_seg": {"mIoU@r": 50.0}}])
        self.register_hooks(
            [EvalHook(20, lambda: next(metrics)), PeriodicWriter(build_writers, eval_period=20)]
        )
        self.sigterm = SimpleNamespace(ends=lambda save: nullcontext())

    def run_step(self):
        self.storage.put_scalar("total_loss", 100 - self.iter)


def test_both_get_config_and_metrics_once(calls, tmp_path):
    cfg = load_config("", ["OUTPUT_DIR", str(tmp_path), "SEED", "5"])
    settings = SimpleNamespace(cfg=cfg, max_iter=40, _first_logged=lambda: 0)
    writers = Trainer.build_writers(settings)
    names = [type(writer).__name__ for writer in writers]
    assert names[2:] == ["WandbWriter", "MlflowWriter", "TensorboardWriter"]
    steps = Steps(lambda: writers[2:4])
    steps.train(0, 40)

    (init, *logged, finish) = calls["wandb"]
    assert init[2]["dir"] == cfg.OUTPUT_DIR and "SEED: 5" in init[2]["config"]["config"]
    assert finish[0] == "finish"
    assert [(args[0], kwargs["step"]) for _, args, kwargs in logged] == [
        ({"total_loss": 81.0, "sem_seg/mIoU@r": 30.0}, 19),
        ({"total_loss": 61.0}, 39),
        ({"sem_seg/mIoU@r": 50.0}, 40),  # the evaluation after the last step
    ]

    assert calls["mlflow"][-1][0] == "end_run"
    of_mlflow = [
        (args[0], kwargs["step"]) for name, args, kwargs in calls["mlflow"] if "metr" in name
    ]
    assert of_mlflow == [
        ({name.replace("@", "_at_"): value for name, value in metrics.items()}, step)
        for metrics, step in [(args[0], kwargs["step"]) for _, args, kwargs in logged]
    ]
    assert all(re.fullmatch(r"[\w/. :-]+", name) for metrics, _ in of_mlflow for name in metrics)
    ((_, (text, name), _),) = [call for call in calls["mlflow"] if call[0] == "log_text"]
    assert "SEED: 5" in text and name == "config.yaml"
