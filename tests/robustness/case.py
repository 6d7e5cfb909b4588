"""A folder of inputs, the programs that read it, and the rule that judges them.

The rule: a program either works or refuses its input with one clear message. A clear message has no
traceback and names the file or the key at fault. Input files never change, and nothing that is
planted in them is executed.
"""

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sar import cli
from sar.files import lock
from sar.files.program_outputs import JOURNAL
from sar.training.trainer import Trainer

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger

from ..programs import load_program
from ..runs import prepared, train

ROOT = Path(__file__).parents[2]
CLASSES = ("ground", "block", "dot")
CONFIG = f"""\
_BASE_: {ROOT / "configs/Folder/sar_sem_fpn_R_18.yaml"}
MODEL:
  DEVICE: cpu
  RESNETS: {{DEPTH: 50, RES2_OUT_CHANNELS: 16, STEM_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 8}}
  FPN: {{OUT_CHANNELS: 16}}
  SEM_SEG_HEAD: {{CONVS_DIM: 16}}
INPUT: {{CROP: {{SIZE: [32, 32]}}, MIN_SIZE_TRAIN: [32, 64]}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 2, CHECKPOINT_PERIOD: 1, WARMUP_ITERS: 1}}
DATALOADER: {{NUM_WORKERS: 0}}
TEST: {{EVAL_PERIOD: 0, PICTURES: 0}}
SEED: 3
OUTPUT_DIR: run
DATASETS: {{FOLDER: mine}}
"""
# Exploits in config files and checkpoints try to create this file.
PLANTED = "exploit-ran"
LONGEST_MESSAGE = 3000  # characters
TIME_LIMIT = 120  # seconds
# Number of cases per test file: cases, refused, right, failures.
counts: dict[str, Counter] = defaultdict(Counter)


class Exploit:
    """An object that creates the file PLANTED when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {PLANTED}",)


def write_inputs(folder: Path) -> None:
    """Write a data set, a config, a finished training in output/, and its weights."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 3), ("val", 2)):
        for part in ("images", "labels"):
            (folder / "mine" / part / split).mkdir(parents=True)
        for index in range(number):
            label = np.zeros((48, 64), np.uint8)
            label[: rng.integers(10, 40), : rng.integers(10, 50)] = 1
            label[20:28, 30:35] = 2
            label[:2] = 255
            image = rng.integers(0, 60, (48, 64, 3)) + 60 * np.minimum(label, 3)[..., None]
            for part, pixels in (("images", image.astype(np.uint8)), ("labels", label)):
                Image.fromarray(pixels).save(folder / "mine" / part / split / f"{index}.png")
    (folder / "mine/classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (folder / "tiny.yaml").write_text(CONFIG)
    with inside(folder):
        train(["OUTPUT_DIR", "output"], config="tiny.yaml")
    weights = load_weights(folder / "output/model_final.pth")
    torch.save({"model": weights}, folder / "weights.pth")
    arrays = {name: value.numpy() for name, value in weights.items()}
    (folder / "weights.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "test"}))
    shutil.copy(folder / "output/class_frequency.json", folder / "frequency.json")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in the folder, for a limited time, and forget the runs in this process afterwards."""

    def stop(signum, frame):
        raise TimeoutError(f"no end after {TIME_LIMIT} s")

    before = Path.cwd()
    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIME_LIMIT)
    os.chdir(folder)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        os.chdir(before)
        lock.release()
        setup_logger.cache_clear()
        for name in ("", "sar", "detectron2", "fvcore"):
            logging.getLogger(name).handlers.clear()
        for name in [name for name in DatasetCatalog if name.startswith("folder_")]:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


def train_net(words: Sequence[str], *, resume: bool = False) -> None:
    """Train, and check that the weights and losses are finite."""
    trainer = train(list(words), config="tiny.yaml", resume=resume)
    output = Path(trainer.cfg.OUTPUT_DIR)
    weights = load_weights(output / (output / "last_checkpoint").read_text())
    assert all(bool(value.isfinite().all()) for value in weights.values())
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert losses and np.isfinite(losses).all()


def resume(words: Sequence[str]) -> None:
    train_net(["OUTPUT_DIR", "output", "SOLVER.MAX_ITER", "3", *words], resume=True)


def evaluate(words: Sequence[str]) -> None:
    """Evaluate weights.pth, and check that the mIoU is a percentage."""
    words = ["MODEL.WEIGHTS", "weights.pth", *words]
    cfg = prepared(words, config_file="tiny.yaml", eval_only=True)
    results = Trainer.test(cfg, Trainer.load_for_evaluation(cfg, resume=False))
    assert 0 <= results["sem_seg"]["mIoU"] <= 100


def check_dataset(words: Sequence[str]) -> int:
    """Check mine/, and compare the counts with a second count by Pillow."""
    code = load_program(ROOT / "tools/check_dataset.py").main(
        ["--folder", "mine", "--output", "checked", *words]
    )
    if code == 0:
        written = json.loads(Path("checked/class_frequency.json").read_text())
        num_classes = len(written["class_names"])
        images = Path("mine/images/train").rglob("[!.]*")
        images = {path.with_suffix("").name for path in images if path.is_file()}
        pixels = np.zeros(num_classes, int)
        for path in Path("mine/labels/train").rglob("*.*"):
            if path.is_file() and path.with_suffix("").name in images:
                with Image.open(path) as label:
                    stored = np.asarray(label.convert("L") if label.mode == "LA" else label)
                pixels += np.bincount(stored.ravel(), minlength=2**16)[:num_classes]
        assert written["pixels"] == pixels.tolist()
    return code


def predict(words: Sequence[str]) -> int:
    """Predict the validation images, and check that each has a label map of its size."""
    code = load_program(ROOT / "tools/predict.py").main(
        ["--config-file", "tiny.yaml", "--input", "mine/images/val", "--output", "predicted"]
        + ["MODEL.WEIGHTS", "weights.pth", *words]
    )
    if code == 0:
        for path in filter(Path.is_file, Path("mine/images/val").rglob("[!.]*")):
            label = Path("predicted/labels", path.name).with_suffix(".png")
            with Image.open(path) as image, Image.open(label) as found:
                assert found.size == image.size
    return code


def report(words: Sequence[str]) -> int:
    """Compare the run in output/ with itself, and check that the page shows its classes."""
    program = load_program(ROOT / "tools/report.py")
    code = program.main(["output", "--output", "report.html", "--images", "1", *words])
    if code == 0:
        page = Path("report.html").read_text(encoding="utf-8")
        content = json.loads(page.split('id="data">')[1].split("</script>")[0])
        assert [entry["name"] for entry in content["classes"]] == list(CLASSES)
    return code


class Case:
    """A copy of the inputs, for one example to damage."""

    def __init__(self, folder: Path, test_file: str):
        self.folder = folder
        self._counts = counts[test_file]

    def run(
        self, program: Callable, words: Sequence[str] = (), *, names: Sequence[str], may: str = ""
    ) -> bool:
        """Run a program and judge it by the rule. Return whether it worked.

        Args:
            program: one of the functions above.
            names: a refusal has to contain one of these as a whole word.
            may: regular expression of input files that the program may change.
        """
        self._counts["cases"] += 1
        before = self._digests()
        text = StringIO()
        try:
            with inside(self.folder), redirect_stdout(text), redirect_stderr(text):
                code = _exit_code(lambda: program(words))
            self._check(program, code, text.getvalue(), names, before, may)
        except BaseException:
            self._counts["failures"] += 1
            raise
        self._counts["refused" if code else "right"] += 1
        return code == 0

    def _check(
        self,
        program: Callable,
        code: int,
        text: str,
        names: Sequence[str],
        before: dict[str, str],
        may: str,
    ) -> None:
        assert "Traceback" not in text, text
        assert not (self.folder / PLANTED).exists(), "an exploit was executed"
        if code:
            errors = re.findall(r"^(?:[\w.]+: )?error: ", text, re.MULTILINE)
            # predict.py reports each image that it cannot read.
            assert errors and (len(errors) == 1 or "could not be" in text), text
            message = text[text.index(errors[0]) :]
            assert len(message) < LONGEST_MESSAGE, message
            if program is check_dataset:  # lists the problems before the error
                message = text
            assert any(is_named(name, message) for name in names), f"no {names} in {message}"
        after = self._digests()
        changed = [name for name in before if after.get(name) != before[name]]
        assert not [name for name in changed if not (may and re.fullmatch(may, name))], changed

    def _digests(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name != JOURNAL
        }


def _exit_code(main: Callable[[], int | None]) -> int:
    try:
        return cli.exit_code(main)
    except SystemExit as exit:  # a wrong command line
        return int(exit.code or 0)


def is_named(name: str, text: str) -> bool:
    """Return whether a text contains a name as a whole: not LOSS in MODEL.LOSS.NAME."""
    before = r"(?<![\w.])" if name[:1].isalnum() else ""
    after = r"(?!\w|\.\w)" if name[-1:].isalnum() else ""
    return re.search(f"{before}{re.escape(name)}{after}", text) is not None
