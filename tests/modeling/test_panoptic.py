"""The semantic head of detectron2's PanopticFPN, regularized by config only."""

import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from sar.config import load_config
from sar.data.datasets import longtail_shapes
from sar.data.mapper import PanopticMapper, SemanticSegmentationMapper
from sar.errors import InputError
from sar.training.trainer import Trainer

from detectron2.modeling import build_model
from detectron2.structures import BoxMode
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
    monkeypatch.setattr(longtail_shapes, "generated_folder", lambda *args: tmp_path / "shapes")
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


@pytest.mark.parametrize("filters", [True, False])
def test_images_without_instances_are_left_out_as_in_detectron2(filters, dicts, monkeypatch):
    dicts[0]["annotations"] = []
    monkeypatch.setattr("sar.training.trainer.load_dataset", lambda name: dicts)
    monkeypatch.setattr(
        "sar.training.trainer.loader.build_train_loader", lambda cfg, mapper, found: found
    )
    words = ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", str(filters)]
    cfg = load_config("configs/LongTailShapes/baseline_panoptic_fpn_R_18.yaml", words)
    with_instances = [record for record in dicts if record["annotations"]]
    assert Trainer.build_train_loader(cfg) == (with_instances if filters else dicts)
    assert 0 < len(with_instances) < len(dicts)


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


@pytest.fixture
def write(tmp_path):
    """Writes an image and a label of ids 0, 1, 2 and 11; gives the dict of the data set, in which
    each but 0 is an instance, as its own category."""

    def write(kind):
        rng = np.random.default_rng(3)
        ids = np.kron(rng.choice([0, 1, 2, 11], (6, 8)), np.ones((16, 16), int)).astype(np.uint8)
        label = Image.fromarray(ids if kind != "16 bits" else ids.astype(np.uint16))
        if kind == "palette":
            label.putpalette(rng.integers(256, size=768, dtype=np.uint8).tobytes())
        label.save(tmp_path / "label.png")
        image = rng.integers(256, size=(96, 128, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "image.png")
        annotations = [
            {
                "bbox": [0, 0, 128, 96],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": category,
                "segmentation": mask_util.encode(np.asfortranarray(ids == category)),
                "keypoints": [1, 1, 2],
                "iscrowd": int(category == 2),
            }
            for category in (1, 2, 11)
        ]
        files = {"file_name": tmp_path / "image.png", "sem_seg_file_name": tmp_path / "label.png"}
        return {"annotations": annotations, **{key: str(path) for key, path in files.items()}}

    return write


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bits"])
@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
def test_samples_are_those_of_semantic_training_with_their_instances(write, kind, flip):
    # Crops that are smaller than the image, and larger than it: padded.
    overrides = ["INPUT.MIN_SIZE_TRAIN", "(48, 160)", "INPUT.RANDOM_FLIP", flip]
    cfg = load_config("configs/LongTailShapes/sar_panoptic_fpn_R_18.yaml", overrides)
    assert cfg.INPUT.COLOR_JITTER and cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA < 1
    record = write(kind)
    before = copy.deepcopy(record)
    semantic, panoptic = SemanticSegmentationMapper(cfg), PanopticMapper(cfg)
    num_cropped = 0
    for seed in range(8):
        sample = panoptic(record, np.random.default_rng(seed))
        expected = semantic(record, np.random.default_rng(seed))
        assert record == before
        assert torch.equal(sample["image"], expected["image"])
        labels = sample["sem_seg"]
        assert torch.equal(labels, expected["sem_seg"]) and labels.shape == (128, 128)
        instances = sample["instances"]
        assert instances.image_size == (128, 128) and "annotations" not in sample
        shown = [category for category in (1, 11) if (labels == category).any()]
        assert instances.gt_classes.tolist() == shown
        num_cropped += len(shown) < 2 or bool((labels != 255).all())
        for category, mask, box in zip(
            shown, instances.gt_masks.tensor, instances.gt_boxes.tensor.tolist(), strict=True
        ):
            assert torch.equal(mask.bool(), labels == category)
            rows, columns = torch.nonzero(mask, as_tuple=True)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert 0 < num_cropped < 8


def test_polygons_of_whole_images(write):
    overrides = ["INPUT.CROP.ENABLED", "False", "INPUT.MASK_FORMAT", "polygon"]
    overrides += ["INPUT.MIN_SIZE_TRAIN", "(192,)", "INPUT.RANDOM_FLIP", "none"]
    overrides += ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice"]
    cfg = load_config("configs/LongTailShapes/sar_panoptic_fpn_R_18.yaml", overrides)
    record = write("grey")
    polygon = np.array([10.0, 20, 40, 20, 40, 50])
    for annotation in record["annotations"]:
        annotation["segmentation"] = [polygon]
    instances = PanopticMapper(cfg)(record, np.random.default_rng(0))["instances"]
    assert instances.gt_boxes.tensor[0].tolist() == [20, 40, 80, 100]
    assert polygon.tolist() == [10.0, 20, 40, 20, 40, 50]


def test_ids_outside_the_classes_are_found(write):
    config = "configs/LongTailShapes/sar_panoptic_fpn_R_18.yaml"
    mapper = PanopticMapper(load_config(config, ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "11"]))
    with pytest.raises(InputError, match="label.png has the ids 11, which"):
        mapper(write("palette"), np.random.default_rng(0))


@pytest.mark.parametrize("key", ["MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"])
def test_what_is_not_read_is_refused(key):
    config = "configs/LongTailShapes/sar_panoptic_fpn_R_18.yaml"
    with pytest.raises(InputError, match=key):
        PanopticMapper(load_config(config, [key, "True"]))
