import logging

import numpy as np
import pytest
import torch
from PIL import Image

import sar  # noqa: F401  before detectron2, which test modules import
from sar.files import lock

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger

from .clouds import write_cloud_folder

# The tests' tensors are small: more threads only get into each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tests, and programs that they start, do not share what they keep between runs."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def end_of_run():
    """Take back what a run leaves in its process: loggers, the lock of OUTPUT_DIR, data sets."""
    loggers = [logging.getLogger(name) for name in ("sar", "detectron2", "fvcore")]
    for logger in loggers:  # as in a run; pytest's caplog sees it before the test starts
        logger.propagate = False
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers = handlers
        logger.setLevel(level)
    setup_logger.cache_clear()
    lock.release()
    for name in [name for name in DatasetCatalog if name.startswith("folder_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def folder(tmp_path):
    """A data set of one's own: five images of 48 x 64, three classes that can be told by colour."""
    generator = np.random.default_rng(0)
    root = tmp_path / "mine"
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for index in range(5):
            labels = np.zeros((48, 64), np.uint8)
            labels[: generator.integers(10, 40), : generator.integers(10, 50)] = 1
            labels[20 : generator.integers(21, 30), 30:35] = 2
            labels[:2] = 255
            noise = generator.integers(0, 60, (48, 64, 3))
            image = np.minimum(noise + 60 * np.minimum(labels, 3)[..., None], 255).astype(np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{index}.png")
            Image.fromarray(labels).save(root / "labels" / split / f"{index}.png")
    (root / "classes.txt").write_text("ground\nblock\ndot\n")
    return root


@pytest.fixture
def cloud_folder(tmp_path):
    """A data set of three clouds in train and in val, with three classes."""
    return write_cloud_folder(tmp_path / "scans")


@pytest.fixture
def overrides(folder, tmp_path):
    """Command-line pairs for a training of seconds on `folder`."""
    return [
        "DATASETS.FOLDER", str(folder), "OUTPUT_DIR", str(tmp_path / "output"), "SEED", "3",
        "INPUT.CROP.SIZE", "(32, 32)", "INPUT.MIN_SIZE_TRAIN", "(32, 64)",
        "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2",
        "SOLVER.WARMUP_ITERS", "1", "DATALOADER.NUM_WORKERS", "0", "TEST.EVAL_PERIOD", "0",
        "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
    ]  # fmt: skip
