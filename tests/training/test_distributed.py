"""Training and evaluation in several processes: what one process computes, however they end."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sar.config import load_config

from ..runs import CONFIG, TORCHRUN, finish, wait_for

# Norms per sample, and nothing random in a step: the number of processes can change only how sums
# over the batch are rounded.
DETERMINISTIC = [
    "MODEL.RESNETS.NORM", "GN", "MODEL.FPN.NORM", "GN", "MODEL.SEM_SEG_HEAD.NORM", "GN",
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
    "MODEL.REGULARIZERS", "('SemanticAnchorRegularizer', 'CenterCollapseRegularizer')",
    "MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE", "1e-9", "MODEL.CENTER_COLLAPSE.DROPOUT", "0.0",
    # At this crop size, the coarsest feature map has several values to normalize.
    "INPUT.MIN_SIZE_TRAIN", "(64, 96)", "INPUT.CROP.SIZE", "(64, 64)",
    "SOLVER.IMS_PER_BATCH", "6", "SOLVER.MAX_ITER", "6",
]  # fmt: skip

PROGRAM = """
import itertools, json, os, signal
import torch
from pathlib import Path
from sar.checkpoints.checkpointer import Checkpointer
from sar.training.launch import run
from sar.training.trainer import Trainer
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

class AtIteration(HookBase):
    def after_step(self):
        if self.trainer.iter == 2:
            if os.environ.get("END") == "SIGKILL" and comm.get_rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            elif os.environ.get("END") == "SIGTERM" and comm.is_main_process():
                os.kill(os.getppid(), signal.SIGTERM)

def count_pixels(cfg):
    "Return the pixels of each class, per step and process."
    counts = []
    for batch in itertools.islice(Trainer.build_train_loader(cfg), cfg.SOLVER.MAX_ITER):
        labels = torch.stack([sample["sem_seg"] for sample in batch])
        counts.append([int((labels == i).sum()) for i in range(3)])
    return list(zip(*comm.all_gather(counts)))

def main(cfg, args):
    if os.environ.get("FLOAT64"):
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if not args.resume:
        trainer.register_hooks([AtIteration()])
    trainer.train()
    seen = {"pixels": count_pixels(cfg)}
    seen["losses"] = {
        name: [value for value, _ in history.values()]
        for name, history in trainer.storage.histories().items()
        if "loss" in name
    }
    weights = os.environ.get("WEIGHTS")
    if weights:
        model = Trainer.build_model(cfg)
        Checkpointer(model).load(weights)
        seen["evaluation"] = Trainer.test(cfg, model)
    if comm.is_main_process():
        Path(cfg.OUTPUT_DIR, "seen.json").write_text(json.dumps(seen))

if __name__ == "__main__":
    run(main)
"""


@pytest.fixture
def train(tmp_path, overrides):
    """Train in another program with `num_processes`, into a folder `name`."""

    def train(name, num_processes, *words, torchrun=(), **environment):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        command = [*torchrun, str(program)] if torchrun else [sys.executable, str(program)]
        command += ["--config-file", CONFIG, "--num-gpus", "0"]
        command += [] if torchrun else ["--num-processes", str(num_processes)]
        process = subprocess.Popen(
            [*command, *words, *overrides, *DETERMINISTIC, "OUTPUT_DIR", str(tmp_path / name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )
        try:
            return finish(process), tmp_path / name
        finally:
            process.kill()

    return train


def weights_of(output):
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


@pytest.mark.slow
def test_one_two_and_three_processes_do_the_same(train, folder, tmp_path):
    # Most images have no labels, and only one has the third class.
    for name in "012":
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(folder / f"labels/train/{name}.png")
    label = np.array(Image.open(folder / "labels/train/3.png"))
    Image.fromarray(np.where(label == 2, 1, label)).save(folder / "labels/train/3.png")

    # Float64: in a few steps, rectifiers amplify the rounding errors of float32.
    settings = {"FLOAT64": "1", "WEIGHTS": str(tmp_path / "1" / "model_final.pth")}
    seen = {}
    for number in (1, 2, 3):  # 5 images of the evaluation: not divisible by 2 or 3
        (code, _, err), output = train(str(number), number, **settings)
        assert code == 0, err
        seen[number] = json.loads((output / "seen.json").read_text())

    one, weights = seen[1], weights_of(tmp_path / "1")
    assert all(len(values) == 6 for values in one["losses"].values())
    assert one["losses"]["loss_sar_pull"][-1] > 0  # its gate has opened
    for number in (2, 3):
        several = seen[number]
        # The data cover both cases: a process without labels, and a class in only one process.
        pixels = np.array(several["pixels"])
        assert pixels.shape == (6, number, 3)
        assert (pixels.sum(axis=2) == 0).any()
        assert ((pixels[..., 2] > 0).sum(axis=1) == 1).any()
        assert (pixels.sum(axis=1) == np.array(one["pixels"]).sum(axis=1)).all()

        assert several["losses"].keys() == one["losses"].keys()
        for name, values in several["losses"].items():
            np.testing.assert_allclose(values, one["losses"][name], rtol=1e-9, err_msg=name)
        for name, value in weights_of(tmp_path / str(number)).items():
            torch.testing.assert_close(value, weights[name], rtol=1e-7, atol=1e-9)
        assert repr(several["evaluation"]) == repr(one["evaluation"])  # repr: of NaN, too


@pytest.mark.slow
def test_ended_processes_resume_to_the_same_weights(train):
    """Kill a worker under torchrun, which restarts all; send SIGTERM to the launcher."""
    (code, _, err), output = train("whole", 2)
    assert code == 0, err
    expected = weights_of(output)

    torchrun = [*TORCHRUN, "--max-restarts", "1"]
    (code, out, err), output = train("killed", 2, torchrun=torchrun, END="SIGKILL")
    assert code == 0, err
    assert "Starting training from iteration 2" in out  # of the checkpoint after two
    assert_equal(weights_of(output), expected)

    (code, _, err), output = train("told", 2, END="SIGTERM")
    assert code == 143, err
    assert "Traceback" not in err
    assert not (output / "model_final.pth").exists()
    (code, out, err), output = train("told", 2, "--resume")
    assert code == 0, err
    assert "Starting training from iteration 0" not in out
    assert_equal(weights_of(output), expected)


def assert_equal(weights, expected):
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        assert torch.equal(value, expected[name]), name


SRUN = """#!/bin/bash
shift  # an option of its own
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$SLURM_LOG"; fi
"""


@pytest.mark.slow
def test_the_slurm_script_of_the_documentation(tmp_path, overrides):
    """With stand-ins for SLURM: after SIGTERM, a job saves a checkpoint and is queued again."""
    for name, program in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    script = re.search("```bash\n(.*?)```", Path("docs/cluster.md").read_text(), re.DOTALL)[1]
    (tmp_path / "train.sh").write_text(script)
    settings = dict(zip(overrides[::2], overrides[1::2], strict=True))
    settings |= {
        "INPUT.CROP.SIZE": "(64, 64)",
        "SOLVER.MAX_ITER": 10**6,
        "SOLVER.CHECKPOINT_PERIOD": 10**6,
    }
    config, output = tmp_path / "config.yaml", tmp_path / "output"
    cfg = load_config(CONFIG, [str(word) for pair in settings.items() for word in pair])
    config.write_text(cfg.dump())
    process = subprocess.Popen(
        ["bash", str(tmp_path / "train.sh"), str(config), str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {
            "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.defpath]),
            "SLURM_LOG": str(tmp_path / "log"), "SLURM_JOB_ID": "7", "SLURM_NNODES": "1",
            "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_NODELIST": "localhost",
        },
    )  # fmt: skip
    try:
        wait_for(output / "metrics.json", process)
        process.send_signal(signal.SIGTERM)
        code, _, err = finish(process)
    finally:
        process.kill()
    assert code != 0
    assert (tmp_path / "log").read_text() == "requeue 7\n", err
    assert (output / (output / "last_checkpoint").read_text()).is_file()
