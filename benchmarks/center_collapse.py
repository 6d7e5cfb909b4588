"""Measure CeCo from the embedding to the loss, forward and backward.

CeCo computes the centre of each class. The peer is the dense formulation of the method's released
code: it upsamples 128 projected channels to the label size. A one-hot matrix times these channels
then gives the sums of the classes. Our code resizes the labels to the embedding size and adds each
vector to its class.

On paper, our code needs N L C P multiplications for the projection (P = 128) and N L P additions.
The centres and their logits in D = 1024 dimensions need K D (P + K) operations. Our code stores
N L (C + P) + 3 K (D + K) numbers. The peer has 16 N L P and 16 N L K P.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from harness import Growth, Measurement, chosen, main, peak_memory, time_alternately
from torch import nn

from sar.regularizers import CenterCollapseRegularizer

SIZES = [(2, 512, 128, num_classes) for num_classes in (150, 847)]  # N, C, side, K
CLASSES = [(2, 512, 32, num_classes) for num_classes in (11, 150, 847)]
PIXELS = [(2, 512, side, 150) for side in (16, 32, 64)]
LABEL_STRIDE, PROJECTED, ETF_DIM, IGNORE = 4, 128, 1024, 255


class DenseCenterCollapse(nn.Module):
    """CeCo as in the released code, with our own ETF and without dropout."""

    def __init__(self, ours: CenterCollapseRegularizer):
        super().__init__()
        self.ours = ours
        self.weight = ours.pixel_projection.weight[:, :, None, None]
        self.norm = nn.BatchNorm2d(PROJECTED, affine=False)

    def forward(self, embeddings, labels):
        pixels = self.norm(F.conv2d(embeddings, self.weight))
        pixels = F.interpolate(pixels, size=labels.shape[1:], mode="bilinear")
        pixels = pixels.permute(0, 2, 3, 1).reshape(-1, PROJECTED)
        labels = labels.flatten()
        num_classes = self.ours.num_classes
        valid = (labels != IGNORE)[:, None]
        one_hot = F.one_hot(labels.where(valid[:, 0], 0), num_classes).to(pixels.dtype) * valid
        counts = one_hot.sum(dim=0)
        present = counts > 0
        centres = (one_hot.T @ pixels)[present] / counts[present, None]
        centres = F.normalize(F.relu(self.ours.centre_projection(centres)), dim=1)
        logits = self.ours.scale * centres @ self.ours.etf.T
        return self.ours.weight * F.cross_entropy(logits, present.nonzero()[:, 0])


def predict(samples, channels, side, num_classes) -> dict[str, float]:
    """Return the number of operations and of stored numbers, on paper."""
    pixels = samples * side**2
    centres = num_classes * ETF_DIM * (PROJECTED + num_classes)
    logits = 3 * num_classes * (ETF_DIM + num_classes)
    return {
        "time": PROJECTED * pixels * (channels + 1) + centres,
        "memory": pixels * (channels + PROJECTED) + logits,
    }


def compare(size, device, axis=None) -> Iterator[Measurement]:
    samples, channels, side, num_classes = size
    ours = CenterCollapseRegularizer(
        num_classes, channels, projection_dim=ETF_DIM, dropout=0.0, ignore_value=IGNORE
    ).to(device)
    peer = DenseCenterCollapse(ours).to(device)
    embeddings = torch.randn(samples, channels, side, side, device=device, requires_grad=True)
    regions = torch.randint(num_classes, (samples, 1, side, side), device=device).float()
    labels = F.interpolate(regions, scale_factor=LABEL_STRIDE)[:, 0].long()
    labels[:, :LABEL_STRIDE] = IGNORE

    def step(loss):
        torch.autograd.grad(loss, embeddings)

    steps = {
        "ours": lambda: step(ours(embeddings, labels)["loss_ceco"]),
        "peer": lambda: step(peer(embeddings, labels)),
    }
    name = f"{samples}x{channels}x{side}x{side}, K = {num_classes}"
    subject, growth = "CeCo, ", {"time": None, "memory": None}
    if axis:
        subject += f"{axis} growing, "
        grown = {"classes": num_classes, "pixels": samples * side**2}[axis]
        growth = {what: Growth(axis, grown, cost) for what, cost in predict(*size).items()}
    seconds = time_alternately(steps, seconds=10)
    yield Measurement(
        subject + "time", name, *(1e3 * value for value in seconds.values()), growth=growth["time"]
    )
    memory = [peak_memory(function, device) / 2**20 for function in steps.values()]
    yield Measurement(subject + "memory", name, *memory, unit="MiB", growth=growth["memory"])


def measure(device: torch.device) -> Iterator[Measurement]:
    # The peer takes many seconds even for the smallest of SIZES.
    for size in chosen(SIZES, smallest=PIXELS[0]):
        yield from compare(size, device)
    for axis, sizes in (("classes", CLASSES), ("pixels", PIXELS)):
        for size in chosen(sizes):
            yield from compare(size, device, axis)


if __name__ == "__main__":
    main(__doc__, measure)
