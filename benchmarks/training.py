"""Compare a whole training step: our model and trainer with SAR, and detectron2's own.

On a GPU, both train DeepLabV3+ R-50 on crops of 512x1024 under bfloat16 autocast, and ours uses
MODEL.CHANNELS_LAST. On the CPU, both train a small Semantic FPN in float32. Then both train
MaskClassifier, a model of queries. Batches are already in memory; loader.py measures loaders. The
peer has the same config, but uses detectron2's SemanticSegmentor and SimpleTrainer. SimpleTrainer
reads back the losses of each step.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from harness import Measurement, main, peak_memory, time_alternately
from torch import nn

from sar.config import load_config
from sar.training.step import TrainingStep
from sar.training.trainer import Trainer

from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

CONFIGS = Path(__file__).parents[1] / "configs"
# For each device: config, number of images, (height, width) of crops, type of autocast.
SETTINGS = {
    "cpu": [("CamVid/{}_sem_fpn_R_18.yaml", 4, (256, 256), None)],
    "cuda": [("Cityscapes/{}_deeplab_v3_plus_R_50.yaml", 8, (512, 1024), torch.bfloat16)],
}
for settings in SETTINGS.values():
    settings.append(("LongTailShapes/{}_mask_classifier_R_18.yaml", 8, (128, 128), None))
LOG_PERIOD = 20  # steps between two reads of the losses, as in our trainer


def measure(device: torch.device) -> Iterator[Measurement]:
    for settings in SETTINGS[device.type]:
        yield from measure_one(*settings, device)


def measure_one(
    config: str,
    num_images: int,
    size: tuple[int, int],
    precision: torch.dtype | None,
    device: torch.device,
) -> Iterator[Measurement]:
    cfgs = {
        name: config_of(config.format(method), size, device)
        for name, method in (("ours", "sar"), ("plain", "baseline"))
    }
    batch = make_batch(num_images, size, cfgs["ours"].MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    steps = {
        "ours": our_step(cfgs["ours"], batch, precision),
        "plain": our_step(cfgs["plain"], batch, precision),
        "peer": detectron2_step(cfgs["plain"], batch, precision),
    }
    where = f"{config.format('sar').removesuffix('.yaml')}, {num_images} of {size[0]}x{size[1]}"
    seconds = time_alternately(steps, seconds=40)
    memory = {name: peak_memory(step, device) / 2**20 for name, step in steps.items()}
    for subject, peer in (
        ("ours with SAR against detectron2's", "peer"),
        ("ours with SAR against ours without", "plain"),
    ):
        yield Measurement(
            f"Training step, time: {subject}", where, 1e3 * seconds["ours"], 1e3 * seconds[peer]
        )
        yield Measurement(
            f"Training step, memory: {subject}", where, memory["ours"], memory[peer], unit="MiB"
        )


def config_of(config: str, size: tuple[int, int], device: torch.device) -> CfgNode:
    on_gpu = device.type == "cuda"
    overrides = ["MODEL.DEVICE", str(device), "MODEL.WEIGHTS", "", "INPUT.CROP.SIZE", str(size)]
    overrides += ["MODEL.CHANNELS_LAST", str(on_gpu)]
    cfg = load_config(str(CONFIGS / config), overrides)
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"  # one process
    return cfg


def make_batch(num_images: int, size: tuple[int, int], num_classes: int) -> list[dict]:
    """Return images of noise, with random labels in blocks of 16 x 16 pixels."""
    height, width = size
    batch = []
    for _ in range(num_images):
        blocks = torch.randint(num_classes, (height // 16, width // 16))
        labels = blocks.repeat_interleave(16, 0).repeat_interleave(16, 1)
        image = torch.randint(256, (3, height, width), dtype=torch.uint8)
        batch.append({"image": image, "sem_seg": labels, "height": height, "width": width})
    return batch


def our_step(cfg: CfgNode, batch: list[dict], precision) -> Callable[[], object]:
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    step = TrainingStep(model, optimizer, seed=0, precision=precision)
    step.data_loader = itertools.repeat(batch)
    iterations = itertools.count()

    def run():
        iteration = next(iterations)
        step.run(iteration)
        if (iteration + 1) % LOG_PERIOD == 0:
            step.fetch_losses()

    return run


def detectron2_step(cfg: CfgNode, batch: list[dict], precision) -> Callable[[], object]:
    cfg = cfg.clone()
    if cfg.MODEL.META_ARCHITECTURE == "RegularizedSemanticSegmentor":
        cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.REGULARIZERS = ()
    torch.manual_seed(0)
    model = Autocast(build_model(cfg), precision)
    trainer = SimpleTrainer(model, itertools.repeat(batch), build_optimizer(cfg, model))
    trainer.iter = 0

    def run():
        with EventStorage():
            trainer.run_step()

    return run


class Autocast(nn.Module):
    """A model under autocast; detectron2 0.6 itself only supports float16."""

    def __init__(self, model: nn.Module, precision: torch.dtype | None):
        super().__init__()
        self.model = model.train()
        self.precision = precision

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        kind = self.model.device.type
        with torch.autocast(kind, self.precision, enabled=self.precision is not None):
            return self.model(batch)


if __name__ == "__main__":
    main(__doc__, measure)
