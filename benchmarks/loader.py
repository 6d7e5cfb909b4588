"""Compare our training mapper with detectron2's DatasetMapper, from files to a sample.

Both mappers work like one worker of a loader. They read image and label, resize by a random scale,
and crop with a limit on the share of a category. Then they flip at random and make tensors. The
images are smooth with sensor noise, so decoding them is like decoding photographs. The labels are
large regions.

The floor is decoding alone: the whole label, and the image as our mapper decodes it. Our mapper
decodes a JPEG at a reduced size if the image shrinks a lot. A second table compares decoding alone
with detectron2's decoding of both files.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import Measurement, chosen, main, time_alternately
from PIL import Image

from sar.config import add_sar_config
from sar.data.crop import decode
from sar.data.label_files import read_label
from sar.data.mapper import SemanticSegmentationMapper

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image

NUM_CLASSES = 19
DRAWS = 16
FILES = 4


@dataclass(frozen=True)
class Case:
    """The files of a measurement and their augmentation; lengths are in pixels."""

    name: str
    shape: tuple[int, int]
    suffix: str
    short_edges: tuple[int, int]
    crop: tuple[int, int]


CASES = [
    Case("480x360 JPEG, CamVid's crop 320x240", (360, 480), "jpg", (180, 720), (240, 320)),
    Case("480x360 PNG, CamVid's crop 320x240", (360, 480), "png", (180, 720), (240, 320)),
    Case("2048x1024 JPEG, crop 1024x512", (1024, 2048), "jpg", (512, 2048), (512, 1024)),
    Case("2048x1024 PNG, Cityscapes' crop 1024x512", (1024, 2048), "png", (512, 2048), (512, 1024)),
    Case(
        "4000x3000 JPEG to 256...1024, crop 512x512", (3000, 4000), "jpg", (256, 1024), (512, 512)
    ),
]


def measure(device: torch.device) -> Iterator[Measurement]:
    for case in chosen(CASES, elements=lambda case: math.prod(case.shape)):
        with tempfile.TemporaryDirectory() as folder:
            seconds = time_alternately(readers(case, Path(folder)), seconds=8)
        milliseconds = {name: 1e3 * value / DRAWS for name, value in seconds.items()}
        yield Measurement(
            "Loader, time an image",
            case.name,
            ours=milliseconds["ours"],
            peer=milliseconds["peer"],
            floor=milliseconds["our decoding"],
        )
        yield Measurement(
            "Loader, decoding alone",
            case.name,
            ours=milliseconds["our decoding"],
            peer=milliseconds["peer's decoding"],
        )


def readers(case: Case, folder: Path) -> dict[str, Callable[[], None]]:
    """Return functions that read DRAWS samples, or only decode the files of these samples."""
    files = write_files(case, folder)
    records = [files[i % FILES] for i in range(DRAWS)]
    cfg = config(case)
    our_mapper = SemanticSegmentationMapper(cfg, is_train=True)
    peers_mapper = detectron2_mapper(cfg)
    transforms = [
        our_mapper.geometry(read_label(record["sem_seg_file_name"]), generator(i))
        for i, record in enumerate(records)
    ]

    def ours() -> None:
        for i, record in enumerate(records):
            our_mapper(record, generator(i))

    def peer() -> None:
        np.random.seed(0)
        for record in records:
            peers_mapper(record)

    def our_decoding() -> None:
        for record, transform in zip(records, transforms, strict=True):
            decode(record["file_name"], transform, record["sem_seg_file_name"])
            Image.open(record["sem_seg_file_name"]).load()

    def peers_decoding() -> None:
        for record in records:
            read_image(record["file_name"], cfg.INPUT.FORMAT)
            read_image(record["sem_seg_file_name"], "L")

    return {
        "ours": ours,
        "peer": peer,
        "our decoding": our_decoding,
        "peer's decoding": peers_decoding,
    }


def generator(i: int) -> np.random.Generator:
    return np.random.default_rng([0, i])


def config(case: Case) -> CfgNode:
    cfg = get_cfg()
    add_sar_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = NUM_CLASSES
    cfg.INPUT.MIN_SIZE_TRAIN = case.short_edges
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    cfg.INPUT.MAX_SIZE_TRAIN = 4096
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = case.crop
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    return cfg


def detectron2_mapper(cfg: CfgNode) -> DatasetMapper:
    """Return detectron2's mapper with the augmentation of its projects/DeepLab."""
    augmentations = [
        T.ResizeShortestEdge(
            cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        ),
        T.RandomCrop_CategoryAreaConstraint(
            cfg.INPUT.CROP.TYPE,
            cfg.INPUT.CROP.SIZE,
            cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA,
            cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        ),
        T.RandomFlip(),
    ]
    return DatasetMapper(is_train=True, augmentations=augmentations, image_format=cfg.INPUT.FORMAT)


def write_files(case: Case, folder: Path) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    dicts = []
    for i in range(FILES):
        smooth = sum(
            2.0 ** (7 - octave) * noise(case.shape, 4 * 2**octave, 3, generator)
            for octave in range(6)
        )
        sensor = 1.5 * torch.randn(3, *case.shape, generator=generator)
        image = (128 + 0.5 * smooth + sensor).clamp(0, 255).byte().permute(1, 2, 0).numpy()
        quarter = tuple(edge // 4 for edge in case.shape)
        label = noise(quarter, 8, NUM_CLASSES, generator).argmax(0).byte().numpy()
        label = label.repeat(4, axis=0).repeat(4, axis=1)
        record = {
            "file_name": str(folder / f"{i}.{case.suffix}"),
            "sem_seg_file_name": str(folder / f"{i}_label.png"),
            "height": case.shape[0],
            "width": case.shape[1],
        }
        Image.fromarray(image).save(record["file_name"], quality=92)
        Image.fromarray(label).save(record["sem_seg_file_name"])
        dicts.append(record)
    return dicts


def noise(
    shape: tuple[int, int], cells: int, channels: int, generator: torch.Generator
) -> torch.Tensor:
    """Return smooth noise (channels, *shape), from `cells` random values along each edge."""
    grid = torch.randn(1, channels, cells, cells, generator=generator)
    return F.interpolate(grid, shape, mode="bicubic")[0]


if __name__ == "__main__":
    main(__doc__, measure)
