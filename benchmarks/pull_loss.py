"""Measure the time and memory that the pull loss of SAR adds to a step, forward and backward.

In this step, the embedding also feeds the 1x1 classifier.

The peer is the dense formulation of the method's reference code: it multiplies a one-hot map of the
labels by the anchors, squares the differences, and applies a mask.

The floor of the time is to read the embedding once and to write its gradient once, at the bandwidth
of a copy. A CPU also fetches memory before it writes to it. The floor of the memory is the
gradient. On paper, both time and memory grow with N C L; the other term, K C, is small.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from harness import Growth, Measurement, bandwidth, chosen, main, peak_memory, time_alternately
from torch import nn

from sar.ops.squared_distance import mean_squared_distance

SIZES = [  # N, C, H, W, K
    (2, 720, 128, 128, 150),
    (4, 256, 64, 64, 150),
    (8, 128, 90, 120, 11),
    (2, 256, 128, 256, 19),
]
CLASSES = [(2, 256, 64, 64, num_classes) for num_classes in (11, 150, 847)]
PIXELS = [(2, 256, side, side, 19) for side in (32, 64, 128)]
IGNORE, WEIGHT = 255, 0.1


def dense_pull(embeddings, labels, anchors):
    """Compute the pull loss as in the reference code.

    Its branches on data, which wait for the device, are left out.
    """
    num_classes = len(anchors)
    labels = labels[:, None]
    index = torch.where(labels < num_classes, labels, num_classes)
    one_hot = embeddings.new_zeros(len(labels), num_classes + 1, *labels.shape[2:])
    one_hot = one_hot.scatter_(1, index, 1)[:, :-1].permute(0, 2, 3, 1)
    targets = (one_hot @ anchors.to(one_hot.dtype)).permute(0, 3, 1, 2)
    mask = labels != IGNORE
    squares = F.mse_loss(embeddings, targets, reduction="none") * mask
    return WEIGHT * squares.sum() / embeddings.shape[1] / mask.sum()


def our_pull(embeddings, labels, anchors):
    return mean_squared_distance(embeddings, labels, anchors, IGNORE, WEIGHT)


def build_steps(size, device, dtype) -> dict[str, Callable[[], None]]:
    """Return a step without a pull loss, a step with ours, and a step with the peer's."""
    samples, channels, height, width, num_classes = size
    inputs = torch.randn(samples, channels, height, width, device=device, dtype=dtype)
    inputs.requires_grad_()
    # Labels in regions, as in an image, with an ignored border.
    labels = torch.randint(num_classes, (samples, 1, 8, 8), device=device).float()
    labels = F.interpolate(labels, size=(height, width))[:, 0].long()
    labels[:, : height // 16] = IGNORE
    anchors = torch.randn(num_classes, channels, device=device)
    classifier = nn.Conv2d(channels, num_classes, 1, device=device, dtype=dtype)
    gradient = torch.randn(samples, num_classes, height, width, device=device, dtype=dtype) * 1e-6

    def step(pull):
        embeddings = inputs.relu()
        loss = (classifier(embeddings) * gradient).sum()
        if pull is not None:
            loss = loss + pull(embeddings, labels, anchors)
        loss.backward()
        inputs.grad = classifier.weight.grad = classifier.bias.grad = None

    return {
        "none": lambda: step(None),
        "ours": lambda: step(our_pull),
        "peer": lambda: step(dense_pull),
    }


def compare(size, device, dtype=torch.float32, growth=None) -> Iterator[Measurement]:
    steps = build_steps(size, device, dtype)
    name = "x".join(map(str, size[:4])) + f", K = {size[4]}"
    if dtype != torch.float32:
        name += ", " + str(dtype).removeprefix("torch.")
    num_bytes = size[0] * size[1] * size[2] * size[3] * dtype.itemsize
    seconds = time_alternately(steps, seconds=15)
    moved = num_bytes * (2 if device.type == "cuda" else 3)
    subject = f"Pull loss in place, {growth.axis} growing, " if growth else "Pull loss in place, "
    yield Measurement(
        subject + "time added",
        name,
        1e3 * (seconds["ours"] - seconds["none"]),
        1e3 * (seconds["peer"] - seconds["none"]),
        1e3 * moved / bandwidth(device),
        growth=growth,
    )
    memory = {key: peak_memory(step, device) / 2**20 for key, step in steps.items()}
    yield Measurement(
        subject + "memory added",
        name,
        memory["ours"] - memory["none"],
        memory["peer"] - memory["none"],
        num_bytes / 2**20,
        "MiB",
        growth=growth,
    )


def measure(device: torch.device) -> Iterator[Measurement]:
    for size in chosen(SIZES):
        yield from compare(size, device)
        if device.type == "cuda":
            yield from compare(size, device, torch.bfloat16)
    for axis, sizes, at in (("classes", CLASSES, 4), ("pixels", PIXELS, 2)):
        for size in chosen(sizes):
            samples, channels, height, width, num_classes = size
            predicted = channels * (samples * height * width + num_classes)
            value = size[at] if axis == "classes" else samples * height * width
            yield from compare(size, device, growth=Growth(axis, value, predicted))


if __name__ == "__main__":
    main(__doc__, measure)
