"""Runs of train_net.py in a test: their arguments, how they end, and what they write."""

import json
import os
import signal
import sys
import time
from argparse import Namespace

import torch

from sar.preflight.prepare import prepare
from sar.training.trainer import Trainer

from detectron2.engine.train_loop import HookBase

CONFIG = "configs/Folder/sar_sem_fpn_R_18.yaml"

# How long things took differs from run to run.
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def arguments(opts, **settings):
    defaults = {
        "config_file": CONFIG, "opts": opts, "eval_only": False, "resume": False,
        "num_gpus": None, "num_processes": 1, "num_machines": 1, "machine_rank": 0,
        "dist_url": "auto", "quiet": False, "imports": [], "add_config": None,
    }  # fmt: skip
    return Namespace(**defaults | settings)


def prepared(opts, **settings):
    """The config of a run in this process, which knows its data sets and class counts then."""
    found = prepare(arguments(opts, **settings))
    found.register()
    return found.cfg


def start(opts, **settings):
    """All that a run does before its first step: the model is built, and its weights are loaded."""
    cfg = prepared(opts, **settings)
    resume = settings.get("resume", False)
    if settings.get("eval_only"):
        return Trainer.load_for_evaluation(cfg, resume=resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def train(overrides, *hooks, resume=False, config=CONFIG):
    cfg = prepared(overrides, resume=resume, config_file=config)
    torch.manual_seed(cfg.SEED if cfg.SEED >= 0 else 0)  # as detectron2's default_setup
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.register_hooks(list(hooks))
    trainer._hooks.sort(key=lambda hook: hook not in hooks)  # these come first
    trainer.train()
    return trainer


class At(HookBase):
    """Calls something after the step of an iteration, before other hooks."""

    def __init__(self, iteration, function):
        self.iteration, self.function = iteration, function

    def after_step(self):
        if self.trainer.iter == self.iteration:
            self.function()


class Killed(BaseException):
    """Nothing in the program catches it, as nothing can catch SIGKILL."""


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def metrics(folder):
    """The lines of metrics.json, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [
        {key: str(value) for key, value in line.items() if key not in TIMES} for line in lines
    ]  # str: NaN is not equal to itself


def finish(process):
    """Exit code and output, within far less time than any time limit of a collective."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for(path, process):
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    return path
