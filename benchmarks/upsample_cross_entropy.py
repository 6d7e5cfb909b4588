"""Compare fused upsampling and cross-entropy with detectron2's heads, which use two steps.

The program measures the loss and the gradient of logits at stride 4, for cross-entropy and for
hard-pixel mining.

The floor of the time is the longer of two times. The first, only on a CPU, is one exponential for
each logit at label resolution, at the rate of `exp_` in the cache. The second is to read the logits
and labels once and to write the gradient once. The floor of the memory is the gradient.

On paper, the time for one image grows with classes times pixels. The memory on a CPU is three
arrays as large as the gradient: the gradient, the gradient with padding, and the logits with
padding. One number per pixel and a constant for the tiles are added.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from harness import Growth, Measurement, bandwidth, chosen, main, peak_memory, time_alternately

from sar.losses import CrossEntropy, HardPixelMining

from detectron2.projects.deeplab.loss import DeepLabCE

STRIDE, IGNORE, TOP_K = 4, 255, 0.2
# (N, K, h, w) of the logits
SIZES = [(2, 150, 128, 128), (4, 19, 128, 256), (8, 11, 90, 120)]
GPU_SIZES = [(16, 150, 128, 128)]
GROWING_CLASSES = [(1, K, 64, 64) for K in (11, 150, 847)]
GROWING_PIXELS = [(1, 19, edge, edge) for edge in (64, 128, 256)]
CRITERIA = {
    "cross-entropy": (
        CrossEntropy(IGNORE, fused=True),
        torch.nn.CrossEntropyLoss(ignore_index=IGNORE),
    ),
    "hard-pixel mining": (
        HardPixelMining(IGNORE, TOP_K, fused=True),
        DeepLabCE(ignore_label=IGNORE, top_k_percent_pixels=TOP_K),
    ),
}


def measure(device: torch.device) -> Iterator[Measurement]:
    sizes = chosen(SIZES + GPU_SIZES * (device.type == "cuda"))
    for name in CRITERIA:
        for size in sizes:
            yield measure_time(name, size, device)
        for size in sizes:
            yield measure_memory(name, size, device)
    for axis, growing in (("classes", GROWING_CLASSES), ("pixels", GROWING_PIXELS)):
        for size in chosen(growing):
            num_images, num_classes, height, width = size
            pixels = num_images * height * width * STRIDE**2
            value = {"classes": num_classes, "pixels": pixels}[axis]
            growth = Growth(axis, value, predicted=pixels * num_classes)
            yield measure_time("cross-entropy", size, device, growth)
            growth = Growth(axis, value, predicted=pixels * (3 * num_classes / STRIDE**2 + 1))
            yield measure_memory("cross-entropy", size, device, growth)


def measure_time(
    name: str, size: tuple[int, ...], device: torch.device, growth: Growth | None = None
) -> Measurement:
    logits, labels = draw(size, device)
    ours, peer = steps(name, logits, labels)
    cached = torch.zeros(2**18, device=device)
    seconds = time_alternately({"ours": ours, "peer": peer, "exp": cached.exp_}, seconds=5)
    exponentials = seconds["exp"] / cached.numel() * labels.numel() * size[1]
    # This number of exponentials is too small to measure the rate of a GPU.
    rate = [exponentials] if device.type == "cpu" else []
    moved = (2 * logits.nbytes + labels.nbytes) / bandwidth(device)
    return Measurement(
        f"Upsampling and {name}, time{f' as {growth.axis} grow' if growth else ''}",
        "x".join(map(str, size)),
        *(1e3 * value for value in (seconds["ours"], seconds["peer"], max([moved, *rate]))),
        growth=growth,
    )


def measure_memory(
    name: str, size: tuple[int, ...], device: torch.device, growth: Growth | None = None
) -> Measurement:
    logits, labels = draw(size, device)
    ours, peer = steps(name, logits, labels)
    return Measurement(
        f"Upsampling and {name}, memory{f' as {growth.axis} grow' if growth else ''}",
        "x".join(map(str, size)),
        ours=peak_memory(ours, device) / 2**20,
        peer=peak_memory(peer, device) / 2**20,
        floor=logits.nbytes / 2**20,
        unit="MiB",
        growth=growth,
    )


def draw(size: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random logits, and labels at image resolution; a tenth of the pixels is ignored."""
    num_images, num_classes, height, width = size
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(size, generator=generator)
    labels = torch.randint(
        min(num_classes, IGNORE),
        (num_images, height * STRIDE, width * STRIDE),
        generator=generator,
    )
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = IGNORE
    return logits.to(device).requires_grad_(), labels.to(device)


def steps(
    name: str, logits: torch.Tensor, labels: torch.Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return our function that computes the gradient, and the peer's."""
    fused, criterion = CRITERIA[name]

    def ours():
        return torch.autograd.grad(fused(logits, labels, STRIDE), logits)

    def peer():
        upsampled = F.interpolate(logits, scale_factor=STRIDE, mode="bilinear", align_corners=False)
        return torch.autograd.grad(criterion(upsampled, labels), logits)

    return ours, peer


if __name__ == "__main__":
    main(__doc__, measure)
