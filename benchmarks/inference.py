"""Compare inference with and without regularizers, and sliding windows with the reference code.

In inference, the regularized model should take as long as the plain model, with whole images and
with sliding windows. The sliding window of the reference code upsamples the embedding and the
logits of each window to the image, and averages both. Inference only needs the logits. The last
tables compare several windows in one batch with one window at a time.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import Measurement, chosen, main, peak_memory, time_alternately
from torch import Tensor, nn

from sar.config import load_config
from sar.modeling.inference import MultiPassSegmentor, window_starts

from detectron2.modeling import build_model

CONFIG = "CamVid/{}_sem_fpn_R_18.yaml"
SIZE = (360, 480)
CROP = (240, 240)
STRIDE = (160, 160)
WINDOWS_PER_BATCH = (2, 3, 6)


def measure(device: torch.device) -> Iterator[Measurement]:
    models = {"ours": build("sar_ceco", device), "peer": build("baseline", device)}
    image = torch.randint(256, (3, *SIZE), dtype=torch.uint8)
    size = "x".join(map(str, SIZE))
    windows = f"{size}, windows of {CROP[0]}x{CROP[1]}"

    whole = {name: whole_image(model, image) for name, model in models.items()}
    slides = {name: slide(model, image, 1) for name, model in models.items()}
    against_plain = {f"{size}, whole": whole, windows: slides}
    against_reference = {
        windows: {
            "ours": slides["ours"],
            "peer": lambda: slide_with_embeddings(models["ours"], image),
        }
    }
    together = {
        f"{windows}, {count} of 6": {
            "ours": slide(models["ours"], image, count),
            "peer": slides["ours"],
        }
        for count in chosen(WINDOWS_PER_BATCH, elements=float)
    }
    for what, cases in (
        ("regularized against plain", against_plain),
        ("windows against the reference's", against_reference),
        ("windows together against one at a time", together),
    ):
        for name, functions in cases.items():
            yield compare(f"Inference, time: {what}", name, functions)
            yield memory(f"Inference, memory: {what}", name, functions, device)


def compare(subject: str, size: str, functions: dict[str, Callable]) -> Measurement:
    seconds = time_alternately(functions, seconds=8)
    return Measurement(subject, size, ours=1e3 * seconds["ours"], peer=1e3 * seconds["peer"])


def memory(
    subject: str, size: str, functions: dict[str, Callable], device: torch.device
) -> Measurement:
    ours, peer = (peak_memory(functions[name], device) / 2**20 for name in ("ours", "peer"))
    return Measurement(subject, size, ours=ours, peer=peer, unit="MiB")


def build(name: str, device: torch.device) -> nn.Module:
    """Return the model of a config in evaluation mode, with random weights from a fixed seed."""
    path = Path(__file__).parents[1] / "configs" / CONFIG.format(name)
    cfg = load_config(str(path), ["MODEL.DEVICE", str(device), "MODEL.WEIGHTS", ""])
    torch.manual_seed(0)
    return build_model(cfg).eval()


def whole_image(model: nn.Module, image: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return model([{"image": image}])

    return run


def slide(model: nn.Module, image: Tensor, windows_per_batch: int) -> Callable[[], object]:
    segmentor = MultiPassSegmentor(
        model, crop_size=CROP, crop_stride=STRIDE, windows_per_batch=windows_per_batch
    )
    return lambda: segmentor([{"image": image}])


@torch.no_grad()
def slide_with_embeddings(model: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the averages of logits and embeddings over all windows, as in the reference code."""
    embeddings = []
    hook = model.sem_seg_head.predictor.register_forward_pre_hook(
        lambda module, args: embeddings.append(args[0])
    )
    height, width = image.shape[1:]
    sums, counts = [0, 0], torch.zeros(1, 1, height, width, device=model.device)
    for top in window_starts(height, CROP[0], STRIDE[0]):
        for left in window_starts(width, CROP[1], STRIDE[1]):
            window = image[:, top : top + CROP[0], left : left + CROP[1]]
            logits = model([{"image": window}])[0]["sem_seg"][None]
            embedding = F.interpolate(embeddings.pop(), CROP, mode="bilinear", align_corners=False)
            margins = (left, width - left - CROP[1], top, height - top - CROP[0])
            sums = [
                total + F.pad(part, margins)
                for total, part in zip(sums, (logits, embedding), strict=True)
            ]
            counts[..., top : top + CROP[0], left : left + CROP[1]] += 1
    hook.remove()
    return sums[0] / counts, sums[1] / counts


if __name__ == "__main__":
    main(__doc__, measure)
