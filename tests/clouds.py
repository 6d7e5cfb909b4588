"""Point clouds for tests, and a model that can be told by eye."""

import numpy as np
import torch
from torch import nn

NUM_POINTS = 300
CLOUD_CLASSES = "floor\nblock\ndot\n"
# Overrides for a training of seconds on `cloud_folder`.
SMALL = [
    "SEED", "3", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2",
    "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "0", "TEST.PICTURES", "0",
    "DATALOADER.NUM_WORKERS", "0",
    "INPUT.POINTS.VOXEL_SIZE", "0.2", "MODEL.SPARSE_UNET.STEM", "4",
    "MODEL.SPARSE_UNET.CHANNELS", "(8, 8)", "MODEL.SPARSE_UNET.BLOCKS", "(1, 1)",
]  # fmt: skip
CONFIG = "configs/Folder/baseline_sparse_unet_small.yaml"


def draw_cloud_points(generator):
    """Return coordinates (N, 3) of a floor, a block on it and a dot, and labels (N,) uint8."""
    xyz = generator.uniform(-2, 2, (NUM_POINTS, 3)) * [1, 1, 0.02]
    label = np.zeros(NUM_POINTS, np.uint8)
    block = (np.abs(xyz[:, :2]) < 1).all(axis=1)
    label[block], xyz[block, 2] = 1, generator.uniform(0.2, 1, block.sum())
    label[:6], xyz[:6] = 2, [1.5, 1.5, 0.5] + generator.normal(0, 0.05, (6, 3))
    label[-20:] = 255
    return xyz, label


def write_cloud_folder(root, number=3):
    """Write a data set of one's own with `number` clouds in each of train and val."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / "clouds" / split).mkdir(parents=True)
        for index in range(number):
            xyz, label = draw_cloud_points(generator)
            np.savez(root / "clouds" / split / f"{index}.npz", xyz=xyz, label=label)
    (root / "classes.txt").write_text(CLOUD_CLASSES)
    return root


class ByHeight(nn.Module):
    """Class 1 where a point is 0.1 or more above the lowest one."""

    def forward(self, batch):
        (sample,) = batch
        height = sample["image"][2]
        return [{"sem_seg": torch.stack([0.1 - height, height - 0.1])}]
