"""The evaluator's `process` against that of detectron2's SemSegEvaluator, an image at a time.

Both take a model's logits, read the label, and count; detectron2's also encodes each prediction as
JSON. (With OpenCV, newer releases of detectron2 would erode every prediction beside that, for a
boundary IoU; here they are measured without.) The floor is to read the logits once and the label's
file.

Memory is what an image leaves behind, which adds up over a data set. Growth: the time is one of
reading logits, in pixels times classes.
"""

import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import Growth, Measurement, bandwidth, chosen, main, time_alternately
from PIL import Image

from sar.data.label_files import read_label
from sar.evaluation import LongTailEvaluator

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

SIZES = [(360, 480, 11), (512, 683, 150), (1024, 2048, 19)]
GROWING_CLASSES = [(256, 256, K) for K in (11, 150, 847)]
GROWING_PIXELS = [(edge, edge, 19) for edge in (256, 512, 1024)]
IMAGES = 20


def measure(device: torch.device) -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory() as folder:
        for size in chosen(SIZES):
            yield time_an_image(size, device, Path(folder))
        for size in chosen(SIZES):
            yield memory_of_an_image(size, device, Path(folder))
        for size in chosen(GROWING_CLASSES):
            yield time_an_image(size, device, Path(folder), Growth("classes", size[2], size[2]))
        for size in chosen(GROWING_PIXELS):
            pixels = size[0] * size[1]
            yield time_an_image(size, device, Path(folder), Growth("pixels", pixels, pixels))


def time_an_image(
    size: tuple[int, int, int], device: torch.device, folder: Path, growth: Growth | None = None
) -> Measurement:
    ours, peer, logits, label_file = processes(size, device, folder)
    seconds = time_alternately(
        {"ours": ours, "peer": peer, "label": lambda: read_label(label_file)}, seconds=4
    )
    floor = seconds["label"] + logits.nbytes / (bandwidth(device))
    return Measurement(
        f"Evaluator, time an image{f' as {growth.axis} grow' if growth else ''}",
        "x".join(map(str, size)),
        *(1e3 * value for value in (seconds["ours"], seconds["peer"], floor)),
        growth=growth,
    )


def memory_of_an_image(
    size: tuple[int, int, int], device: torch.device, folder: Path
) -> Measurement:
    ours, peer, _, _ = processes(size, device, folder)
    return Measurement(
        "Evaluator, memory that an image leaves behind",
        "x".join(map(str, size)),
        ours=left_behind(ours) / 2**10,
        peer=left_behind(peer) / 2**10,
        floor=0,
        unit="KiB",
    )


def left_behind(process: Callable[[], None]) -> float:
    """Bytes of Python and NumPy a call; of the first, none."""
    process()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(IMAGES):
        process()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The interpreter's own books, of a few bytes, are not what grows.
    return max(round((after - before) / IMAGES, -3), 0)


def processes(
    size: tuple[int, int, int], device: torch.device, folder: Path
) -> tuple[Callable, Callable, torch.Tensor, str]:
    """Functions that process an image, ours and the peer's, with its logits and label file."""
    height, width, num_classes = size
    generator = torch.Generator().manual_seed(0)
    # Of few regions, as a trained model's are.
    logits = F.interpolate(
        torch.randn(1, num_classes, 12, 12, generator=generator), (height, width), mode="bicubic"
    )[0]
    name = "x".join(map(str, size))
    image_file, label_file = str(folder / f"{name}.jpg"), str(folder / f"{name}.png")
    label = logits.argmax(0).numpy().astype(np.uint16 if num_classes > 255 else np.uint8)
    Image.fromarray(label).save(label_file)
    if name not in DatasetCatalog.list():
        record = {"file_name": image_file, "sem_seg_file_name": label_file}
        DatasetCatalog.register(name, lambda: [record])
        MetadataCatalog.get(name).set(
            stuff_classes=[f"class {i}" for i in range(num_classes)], ignore_label=65535
        )
    inputs = [{"file_name": image_file, "sem_seg_file_name": label_file}]
    outputs = [{"sem_seg": logits.to(device)}]
    evaluators = [
        LongTailEvaluator(name),
        SemSegEvaluator(name, distributed=False),
    ]
    for evaluator in evaluators:
        evaluator.reset()
    ours, peer = (
        lambda evaluator=evaluator: evaluator.process(inputs, outputs) for evaluator in evaluators
    )
    return ours, peer, outputs[0]["sem_seg"], label_file


if __name__ == "__main__":
    main(__doc__, measure)
