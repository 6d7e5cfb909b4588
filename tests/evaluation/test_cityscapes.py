"""Cityscapes, as detectron2 registers it, against the official evaluation."""

import numpy as np
import pytest
import torch
from PIL import Image

from sar.evaluation import LongTailEvaluator

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic

cityscapes = pytest.importorskip(
    "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", reason="an extra"
)
NAME = "cityscapes_of_the_test"


@pytest.fixture
def layout(tmp_path):
    """Two small images in the official layout, registered; their ground truth as train ids."""
    generator = np.random.default_rng(0)
    image_dir, truth_dir = tmp_path / "leftImg8bit" / "val", tmp_path / "gtFine" / "val"
    for folder in (image_dir, truth_dir):
        (folder / "ulm").mkdir(parents=True)
    truths = []
    for number in range(2):
        stem = f"ulm_00000{number}_000019"
        truth = generator.integers(0, 19, (6, 12)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        truth[:8, :16] = 255
        ids = np.vectorize(lambda train_id: cityscapes.trainId2label[train_id].id)(truth)
        Image.new("RGB", (96, 48)).save(image_dir / "ulm" / f"{stem}_leftImg8bit.png")
        for kind, labels in (("labelTrainIds", truth), ("labelIds", np.where(ids < 0, 0, ids))):
            file = truth_dir / "ulm" / f"{stem}_gtFine_{kind}.png"
            Image.fromarray(labels.astype(np.uint8)).save(file)
        size = '{"imgHeight": 48, "imgWidth": 96}'
        (truth_dir / "ulm" / f"{stem}_gtFine_polygons.json").write_text(size)
        (truth_dir / "ulm" / f"{stem}_gtFine_instanceIds.png").touch()  # only looked for
        truths.append(truth)
    builtin = MetadataCatalog.get("cityscapes_fine_sem_seg_val")
    DatasetCatalog.register(NAME, lambda: load_cityscapes_semantic(str(image_dir), str(truth_dir)))
    MetadataCatalog.get(NAME).set(
        stuff_classes=builtin.stuff_classes,
        ignore_label=builtin.ignore_label,
        evaluator_type=builtin.evaluator_type,
    )
    yield truths
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_classes_score_as_in_the_official_evaluation(layout, tmp_path):
    generator = np.random.default_rng(1)
    evaluator = LongTailEvaluator(NAME)
    evaluator.reset()
    prediction_files, truth_files = [], []
    records = sorted(DatasetCatalog.get(NAME), key=lambda record: record["file_name"])
    for number, (record, truth) in enumerate(zip(records, layout, strict=True)):
        wrong = generator.random(truth.shape) < 0.3
        prediction = np.where(wrong | (truth == 255), generator.integers(0, 19, truth.shape), truth)
        logits = torch.nn.functional.one_hot(torch.from_numpy(prediction).long(), 19)
        evaluator.process([record], [{"sem_seg": logits.permute(2, 0, 1).float()}])
        ids = np.vectorize(lambda train_id: cityscapes.trainId2label[train_id].id)(prediction)
        file = tmp_path / f"prediction_{number}.png"
        Image.fromarray(ids.astype(np.uint8)).save(file)
        prediction_files.append(str(file))
        truth_files.append(record["sem_seg_file_name"].replace("TrainIds", "Ids"))
    found = evaluator.evaluate()["sem_seg"]

    cityscapes.args.quiet = True
    cityscapes.args.JSONOutput = False
    cityscapes.args.evalInstLevelScore = False
    official = cityscapes.evaluateImgLists(prediction_files, truth_files, cityscapes.args)
    for name in MetadataCatalog.get(NAME).stuff_classes:
        assert found[f"IoU-{name}"] == pytest.approx(100 * official["classScores"][name], abs=1e-9)
    assert found["mIoU"] == pytest.approx(100 * official["averageScoreClasses"], abs=1e-9)
