import pytest
import torch

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency

SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5",
    "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.FPN.NORM", "BN",
    "INPUT.CROP.SIZE", "(64, 64)",
]  # fmt: skip


@pytest.fixture
def small_config():
    """Builds a config file's config with small crops, five classes and plain batch norm."""

    def build(name="configs/CamVid/sar_sem_fpn_R_18.yaml", *overrides):
        return load_config(name, SMALL + list(overrides))

    return build


@pytest.fixture
def batch():
    """Two images of 64 x 64 with labels of five classes, some ignored."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        labels = torch.randint(5, (64, 64), generator=generator)
        labels[:8] = 255
        image = torch.randint(256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        samples.append({"image": image, "sem_seg": labels, "height": 50, "width": 70})
    return samples


@pytest.fixture
def frequency_file(tmp_path):
    """Counts of five classes, of which one never occurs."""
    path = tmp_path / "frequency.json"
    images, pixels = (10, 3, 9, 0, 1), (70_000, 900, 29_000, 0, 100)
    ClassFrequency(tuple("abcde"), 10, images, pixels, 500).save(path)
    return str(path)
