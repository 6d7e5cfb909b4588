"""A folder with a small data set, a good run on it and its weights, of which cases are copies."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sar.checkpoints.conversion import LAYOUTS, to_theirs
from sar.config import load_config
from sar.files.program_outputs import JOURNAL

from detectron2.modeling import build_model

from .processes import REPOSITORY, run_program

CLASSES = ("ground", "block", "dot")
MAX_ITER, RESUMED_MAX_ITER = 2, 3
BASE_CONFIG = REPOSITORY / "configs/Folder/sar_sem_fpn_R_18.yaml"
CONFIG = """\
_BASE_: {base}
# A model whose checkpoints have a megabyte.
MODEL:
  DEVICE: cpu
  RESNETS: {{DEPTH: 50, RES2_OUT_CHANNELS: 16, STEM_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 8}}
  FPN: {{OUT_CHANNELS: 16}}
  SEM_SEG_HEAD: {{CONVS_DIM: 16}}
INPUT:
  CROP: {{SIZE: [32, 32]}}
  MIN_SIZE_TRAIN: [32, 64]
SOLVER:
  IMS_PER_BATCH: 2
  MAX_ITER: {max_iter}
  CHECKPOINT_PERIOD: 1
  WARMUP_ITERS: 1
DATALOADER:
  NUM_WORKERS: 0
TEST:
  EVAL_PERIOD: 0
SEED: 3
OUTPUT_DIR: output
# Last, so that what is cut off trains on nothing.
DATASETS:
  FOLDER: mine
"""

# Program and command line in a case's folder; a case's own words come last.
PROGRAMS = {
    "train": ("train_net.py", ("--config-file", "tiny.yaml")),
    "evaluate": (
        "train_net.py",
        ("--config-file", "tiny.yaml", "--eval-only", "MODEL.WEIGHTS", "weights.pth"),
    ),
    "resume": (
        "train_net.py",
        ("--config-file", "tiny.yaml", "--resume", "SOLVER.MAX_ITER", str(RESUMED_MAX_ITER)),
    ),
    "check_dataset": ("tools/check_dataset.py", ("--folder", "mine", "--output", "checked")),
    "visualize": (
        "tools/visualize.py",
        ("--config-file", "tiny.yaml", "--output", "pictures", "MODEL.WEIGHTS", "weights.pth"),
    ),
    "convert": (
        "tools/convert_checkpoint.py",
        ("--config-file", "tiny.yaml", "--from", "torchvision", "--input", "torchvision.pth")
        + ("--output", "converted.pth", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"),
    ),
    "analyze_model": (
        "tools/analyze_model.py",
        ("--config-file", "tiny.yaml", "--size", "32", "64", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"),
    ),
    "predict": (
        "tools/predict.py",
        ("--config-file", "tiny.yaml", "--input", "mine/images/val", "--output", "predicted")
        + ("MODEL.WEIGHTS", "weights.pth"),
    ),
    "export": (
        "tools/export.py",
        ("--config-file", "tiny.yaml", "--output", "model.pt2", "MODEL.WEIGHTS", "weights.pth"),
    ),
    "report": ("tools/report.py", ("output", "--output", "report.html", "--images", "2")),
    "prepare_cityscapes": ("tools/prepare_cityscapes.py", ("--folder", "download")),
    "prepare_ade20k": ("tools/prepare_ade20k.py", ("--folder", "download")),
    "prepare_ade20k_full": ("tools/prepare_ade20k_full.py", ("--folder", "download")),
    "prepare_coco_stuff": ("tools/prepare_coco_stuff.py", ("--folder", "download")),
    "prepare_pascal_context": ("tools/prepare_pascal_context.py", ("--folder", "download")),
}


class Sandbox:
    """The folder that cases are copies of.

        mine/                   a data set: classes.txt, images/ and labels/, 4 + 3 images
        tiny.yaml               a config of a small model on it
        output/                 a finished training with that
        weights.pth, .pkl       its weights; as detectron2's model zoo has them
        torchvision.pth         its backbone's under the names of torchvision
        frequency.json          its class frequencies

    Attributes:
        good: the folder itself.
        case: where it was made, and where copies of it go: it holds that path.
        trained, resumed: OUTPUT_DIR after the training, and after --resume for an iteration more.
        evaluated: a copy after the evaluation of weights.pth.
    """

    def __init__(self, folder: Path):
        self.good, self.case = folder / "good", folder / "case"
        self.case.mkdir(parents=True)
        write_dataset(self.case / "mine", np.random.default_rng(0))
        config = CONFIG.format(base=BASE_CONFIG, max_iter=MAX_ITER)
        (self.case / "tiny.yaml").write_text(config)
        self._run("train", self.good)
        self.trained = self.good / "output"
        self._write_weights()
        self.copy()
        self.evaluated = self._run("evaluate", folder / "evaluated")
        self.copy()
        self.resumed = self._run("resume", folder / "resumed") / "output"

    def copy(self) -> Path:
        """A copy of the folder, for a case to spoil."""
        shutil.copytree(self.good, self.case, symlinks=True)
        return self.case

    def _run(self, program: str, to: Path) -> Path:
        """Runs a program in the case's folder, and moves that."""
        outcome = run_program(*PROGRAMS[program], self.case, timeout=600)
        if outcome.code != 0:
            raise RuntimeError(f"{program} fails on good input:\n{outcome.stdout}{outcome.stderr}")
        return self.case.rename(to)

    def _write_weights(self) -> None:
        state = load_weights(self.good / "output" / "model_final.pth")
        torch.save({"model": state}, self.good / "weights.pth")
        arrays = {name: value.numpy() for name, value in state.items()}
        with open(self.good / "weights.pkl", "wb") as file:
            pickle.dump({"model": arrays, "__author__": "a test"}, file)
        words = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]
        model = build_model(load_config(str(self.good / "tiny.yaml"), words)).state_dict()
        backbone = {k: v for k, v in model.items() if k.startswith("backbone.bottom_up.")}
        theirs = to_theirs(backbone, LAYOUTS["torchvision"], model).weights
        torch.save(theirs, self.good / "torchvision.pth")
        shutil.copy(self.good / "output" / "class_frequency.json", self.good / "frequency.json")


def write_dataset(folder: Path, rng: np.random.Generator) -> None:
    """A folder data set whose classes can be told by colour: images of 48 x 64."""
    for split, number in (("train", 4), ("val", 3)):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for index in range(number):
            label = np.zeros((48, 64), np.uint8)
            label[: rng.integers(10, 40), : rng.integers(10, 50)] = 1
            label[20 : rng.integers(21, 30), 30:35] = 2
            label[:2] = 255
            image = rng.integers(0, 60, (48, 64, 3)) + 60 * np.minimum(label, 3)[..., None]
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
                folder / "images" / split / f"{index}.png"
            )
            Image.fromarray(label).save(folder / "labels" / split / f"{index}.png")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


def read_metrics(output: Path) -> list[dict]:
    """The lines of metrics.json."""
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file under a folder, by its path in it; journals of outputs do not count."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != JOURNAL
    }
