"""The semantic head of detectron2's PanopticFPN, regularized by config only."""

import numpy as np
import pytest
import torch

from sar.config import load_config
from sar.data.datasets import longtail_shapes
from sar.data.mapper import PanopticMapper

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

OVERRIDES = [
    "MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN",
    "MODEL.SEM_SEG_HEAD.NORM", "BN", "INPUT.MIN_SIZE_TRAIN", "(64, 64)",
    "INPUT.CROP.SIZE", "(64, 64)",
]  # fmt: skip


@pytest.fixture
def dicts(tmp_path, monkeypatch):
    """Four images of the embedded data set, with their instances."""
    few = {"train": 4, "val": 1, "test": 1}
    longtail_shapes.generate(tmp_path / "shapes", num_images=few)
    monkeypatch.setattr(longtail_shapes, "_generated_folder", lambda: tmp_path / "shapes")
    monkeypatch.setattr(longtail_shapes, "NUM_IMAGES", few)
    return longtail_shapes.load_longtail_shapes_instances("train")


def train_step(dicts, kind):
    cfg = load_config(f"configs/LongTailShapes/{kind}_panoptic_fpn_R_18.yaml", OVERRIDES)
    mapper = PanopticMapper(cfg)
    batch = [mapper(record, np.random.default_rng(i)) for i, record in enumerate(dicts[:2])]
    torch.manual_seed(0)
    model = build_model(cfg)
    with EventStorage():  # detectron2's heads write to it
        losses = model(batch)
    sum(losses.values()).backward()
    return model, losses, batch


@pytest.mark.parametrize(
    "kind, added",
    [
        ("sar", {"loss_sar_anchor", "loss_sar_pull"}),
        ("ceco", {"loss_ceco"}),
        ("sar_ceco", {"loss_sar_anchor", "loss_sar_pull", "loss_ceco"}),
    ],
)
def test_a_training_step_has_the_plain_losses_and_the_regularizers(kind, added, dicts):
    _, plain, _ = train_step(dicts, "baseline")
    assert {"loss_sem_seg", "loss_mask", "loss_rpn_cls"} <= plain.keys()
    model, losses, batch = train_step(dicts, kind)
    assert losses.keys() == plain.keys() | added
    assert torch.equal(losses["loss_sem_seg"], plain["loss_sem_seg"])
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is not None for p in model.sem_seg_head.parameters())
    with torch.no_grad():
        (output,) = model.eval()(batch[:1])
    assert {"sem_seg", "instances", "panoptic_seg"} <= output.keys()


def test_the_mapper_draws_from_its_generator_alone(dicts):
    mapper = PanopticMapper(load_config("configs/LongTailShapes/sar_panoptic_fpn_R_18.yaml"))
    record = next(record for record in dicts if record["annotations"])
    first, again = (mapper(record, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["sem_seg"], again["sem_seg"])
    assert len(first["instances"]) == len(again["instances"]) > 0
    others = [mapper(record, np.random.default_rng(seed))["image"] for seed in range(8)]
    assert any(
        image.shape != first["image"].shape or not torch.equal(image, first["image"])
        for image in others
    )
