"""Measure the anchor branch of SAR: projector, classifier, anchor loss, gate and memory.

The measurement includes forward and backward pass. The branch only sees K anchors with C channels,
so its cost does not depend on the image size.

The peer is the formulation of the method's reference code, which waits for the device before it
decides about the gate. The first table compares the branch with a training step of the plain model.
On paper, the operations grow with K C (3 C + K). With few classes, the overhead of the calls hides
this growth. The stored numbers grow with 3 C^2 + 20 K C + 4 K^2: gradients, activations, logits.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import Growth, Measurement, chosen, main, peak_memory, time_alternately
from torch import nn

from sar.config import load_config
from sar.regularizers import SemanticAnchorRegularizer

from detectron2.modeling import build_model

CONFIGS = Path(__file__).parents[1] / "configs"
STEPS = {  # device: config, number of images, their side, K
    "cpu": ("Base-SemanticFPN-R18.yaml", 4, 256, 11),
    "cuda": ("Base-SemanticFPN-R50.yaml", 8, 512, 150),
}
SIZES = [(720, 150), (512, 19)]  # C, K
CLASSES = [(256, num_classes) for num_classes in (11, 150, 847)]


class ReferenceBranch(nn.Module):
    """The anchor branch as in the reference code, with our modules."""

    def __init__(self, ours: SemanticAnchorRegularizer):
        super().__init__()
        self.ours = ours
        self.has_opened = False
        self.targets = torch.arange(ours.num_classes, device=ours.anchors.device)
        self.memory = torch.zeros_like(ours.anchors)

    def forward(self, classifier):
        features = self.ours.projector(self.ours.anchors)[:, :, None, None]
        logits = classifier(features)
        cross_entropy = F.cross_entropy(logits, self.targets[:, None, None], reduction="none")
        confidence = torch.softmax(logits.flatten(-3), dim=1).diag()
        confidence[confidence > 0.9] = 1
        weights = torch.log(confidence) / (torch.log(confidence).sum() + 1e-9)
        loss = (cross_entropy.flatten() * weights).sum()
        is_right = logits.argmax(dim=1).flatten() == self.targets
        is_confident = cross_entropy < -torch.log(torch.tensor(0.8))
        num_classes = len(self.targets)
        if is_right.sum() == num_classes and is_confident.sum() == num_classes:
            features = features.detach().flatten(1)
            self.memory = 0.999 * self.memory + 0.001 * features if self.has_opened else features
            self.has_opened = True
        return loss


def build_branch(channels: int, num_classes: int, device):
    """Return functions that run our branch and the reference's.

    Our branch also computes the pull loss of one ignored pixel.
    """
    regularizer = SemanticAnchorRegularizer(num_classes, channels).to(device)
    reference = ReferenceBranch(regularizer)
    classifier = nn.Conv2d(channels, num_classes, 1).to(device)
    embedding = torch.zeros(1, channels, 1, 1, device=device)
    label = torch.full((1, 1, 1), 255, device=device)

    def ours():
        sum(regularizer(embedding, label, classifier).values()).backward()

    return {"ours": ours, "peer": lambda: reference(classifier).backward()}


def build_step(config: str, num_images: int, side: int, num_classes: int, device):
    """Return a training step of the plain model, without optimizer, and its embedding channels."""
    cfg = load_config(str(CONFIGS / config))
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    cfg.MODEL.DEVICE = str(device)
    model = build_model(cfg).train()
    batch = [
        {
            "image": torch.randint(256, (3, side, side), dtype=torch.uint8),
            "sem_seg": torch.randint(num_classes, (side, side)),
        }
        for _ in range(num_images)
    ]
    return lambda: sum(model(batch).values()).backward(), cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM


def compare(channels, num_classes, device, grows=False) -> Iterator[Measurement]:
    functions = build_branch(channels, num_classes, device)
    name = f"C = {channels}, K = {num_classes}"
    subject, growth = "Anchor branch and gate, ", {"time": None, "memory": None}
    if grows:
        subject += "classes growing, "
        operations = num_classes * channels * (3 * channels + num_classes)
        held = 3 * channels**2 + 20 * num_classes * channels + 4 * num_classes**2
        growth["time"] = Growth("classes", num_classes, operations)
        growth["memory"] = Growth("classes", num_classes, held)
    seconds = time_alternately(functions)
    yield Measurement(
        subject + "time", name, *(1e3 * value for value in seconds.values()), growth=growth["time"]
    )
    memory = [peak_memory(function, device) / 2**20 for function in functions.values()]
    yield Measurement(subject + "memory", name, *memory, unit="MiB", growth=growth["memory"])


def measure(device: torch.device) -> Iterator[Measurement]:
    config, num_images, side, num_classes = STEPS[device.type]
    step, channels = build_step(config, num_images, side, num_classes, device)
    functions = {"branch": build_branch(channels, num_classes, device)["ours"], "step": step}
    seconds = time_alternately(functions, seconds=30)
    yield Measurement(
        "Anchor branch and gate, share of a training step",
        f"{config.removesuffix('.yaml')}, {num_images} images of {side}x{side}, K = {num_classes}",
        100 * seconds["branch"] / seconds["step"],
        unit="%",
    )
    for size in chosen(SIZES):
        yield from compare(*size, device)
    for channels, num_classes in chosen(CLASSES):
        yield from compare(channels, num_classes, device, grows=True)


if __name__ == "__main__":
    main(__doc__, measure)
