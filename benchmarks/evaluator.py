"""Compare `process` of our evaluator with `process` of detectron2's SemSegEvaluator, per image.

Both evaluators take the logits of a model, read the label, and count. SemSegEvaluator also encodes
each prediction as JSON. With OpenCV, newer releases of detectron2 would also erode each prediction
for a boundary IoU; it is measured without this step. The floor is the time to read the logits once
and to read the label file.

The options of TEST have no peer. Their floor is the time without the option. The label differs from
the prediction at a tenth of its pixels, in spots of 4 x 4.

The memory is the memory that an image leaves behind, which adds up over a data set. On paper, the
time is the time to read the logits, which grows with pixels times classes.
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
from sar.losses import CrossEntropy
from sar.modeling.head_loss import SegmentationLoss

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

SIZES = [(360, 480, 11), (512, 683, 150), (1024, 2048, 19)]
GROWING_CLASSES = [(256, 256, K) for K in (11, 150, 847)]
GROWING_PIXELS = [(edge, edge, 19) for edge in (256, 512, 1024)]
IMAGES = 20
IGNORE = 65535


def measure(device: torch.device) -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory() as folder:
        for size in chosen(SIZES):
            yield time_an_image(size, device, Path(folder))
        for size in chosen(SIZES):
            yield from time_options(size, device, Path(folder))
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


def time_options(
    size: tuple[int, int, int], device: torch.device, folder: Path
) -> Iterator[Measurement]:
    name, inputs, outputs = register(size, device, folder, wrong=0.1)
    options = {
        "no option": {},
        "TEST.LOSS": {"loss": SegmentationLoss(CrossEntropy(IGNORE, fused=True), stride=1)},
        "TEST.BOUNDARY_IOU": {"boundary_iou": True},
        "TEST.OBJECTS": {"object_iou": 0.5},
    }
    evaluators = {option: LongTailEvaluator(name, **given) for option, given in options.items()}
    for evaluator in evaluators.values():
        evaluator.reset()
    seconds = time_alternately(
        {
            option: lambda evaluator=evaluator: evaluator.process(inputs, outputs)
            for option, evaluator in evaluators.items()
        },
        seconds=8,
    )
    without = seconds.pop("no option")
    for option, value in seconds.items():
        subject = f"Evaluator, time an image with {option}"
        yield Measurement(subject, "x".join(map(str, size)), 1e3 * value, floor=1e3 * without)


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
    """Return the bytes that each call leaves allocated in Python and NumPy, without the first."""
    process()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(IMAGES):
        process()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Rounding removes a few bytes of the interpreter itself, which do not add up.
    return max(round((after - before) / IMAGES, -3), 0)


def processes(
    size: tuple[int, int, int], device: torch.device, folder: Path
) -> tuple[Callable, Callable, torch.Tensor, str]:
    """Return our and the peer's function that process an image, its logits and its label file."""
    name, inputs, outputs = register(size, device, folder)
    evaluators = [
        LongTailEvaluator(name),
        SemSegEvaluator(name, distributed=False),
    ]
    for evaluator in evaluators:
        evaluator.reset()
    ours, peer = (
        lambda evaluator=evaluator: evaluator.process(inputs, outputs) for evaluator in evaluators
    )
    return ours, peer, outputs[0]["sem_seg"], inputs[0]["sem_seg_file_name"]


def register(
    size: tuple[int, int, int], device: torch.device, folder: Path, wrong: float = 0.0
) -> tuple[str, list[dict], list[dict]]:
    """Register a data set of one image. Return its name, and the image as input and output.

    Args:
        wrong: share of the pixels whose label is not the prediction.
    """
    height, width, num_classes = size
    generator = torch.Generator().manual_seed(0)
    # Logits with few regions, as from a trained model.
    logits = F.interpolate(
        torch.randn(1, num_classes, 12, 12, generator=generator), (height, width), mode="bicubic"
    )[0]
    name = f"{'x'.join(map(str, size))}, {wrong:g} wrong"
    image_file, label_file = str(folder / f"{name}.jpg"), str(folder / f"{name}.png")
    spots = torch.rand(height // 4 + 1, width // 4 + 1, generator=generator) < wrong
    spots = spots.repeat_interleave(4, 0).repeat_interleave(4, 1)[:height, :width]
    label = logits.argmax(0)
    label = torch.where(spots, (label + 1) % num_classes, label).numpy()
    Image.fromarray(label.astype(np.uint16 if num_classes > 255 else np.uint8)).save(label_file)
    if name not in DatasetCatalog.list():
        record = {"file_name": image_file, "sem_seg_file_name": label_file}
        DatasetCatalog.register(name, lambda: [record])
        MetadataCatalog.get(name).set(
            stuff_classes=[f"class {i}" for i in range(num_classes)], ignore_label=IGNORE
        )
    inputs = [{"file_name": image_file, "sem_seg_file_name": label_file}]
    return name, inputs, [{"sem_seg": logits.to(device)}]


if __name__ == "__main__":
    main(__doc__, measure)
