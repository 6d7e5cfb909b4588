"""Metrics of clouds, against loops that follow the rules of the official evaluation programs.

The rules come from evaluate_semantic_label.py (ScanNet) and np_ioueval.py (SemanticKITTI). S3DIS
has no program; its rules are the usual ones. All count points in the data sets' own ids.
"""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

from sar.data.datasets import scannet, semantic_kitti
from sar.data.datasets.folder import register_folder
from sar.evaluation import LongTailEvaluator
from sar.evaluation.confusion import confusion_metrics

from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture(autouse=True)
def own_catalogs(monkeypatch):
    """What a test registers goes with it."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))


def random_scenes(official, others, *, absent=(), never=(), seed=0, number=3):
    """Labels in official ids, some of them ignored, and predictions that are often right.

    Args:
        official: ids of the classes.
        others: ids that are not classes.
        absent: ids without ground truth.
        never: ids that are not predicted either.
    """
    rng = np.random.default_rng(seed)
    present = [i for i in official if i not in absent]
    predicted = [i for i in official if i not in never]
    scenes = []
    for _ in range(number):
        truth = rng.choice([*present, *others], 40 * len(official))
        prediction = np.where(
            rng.random(len(truth)) < 0.6, truth, rng.choice(predicted, len(truth))
        )
        is_class = np.isin(prediction, official)
        prediction[~is_class] = rng.choice(predicted, (~is_class).sum())
        scenes.append((truth, prediction))
    return scenes


def evaluate(tmp_path, classes, scenes, *, merged=(), groups=None):
    """Our metrics of a folder with these scenes; `merged` maps further official ids to classes."""
    official = list(classes)
    folder = tmp_path / "scans"
    (folder / "clouds" / "val").mkdir(parents=True)
    (folder / "clouds" / "train").mkdir()
    (folder / "classes.txt").write_text("\n".join(classes.values()))
    if groups:
        (folder / "groups.json").write_text(json.dumps(groups))
    outputs = []
    for number, (truth, prediction) in enumerate(scenes):
        label = [
            official.index(i) if i in classes else 255 for i in map(dict(merged).get, truth, truth)
        ]
        xyz = np.random.default_rng(number).normal(size=(len(truth), 3))
        np.savez(folder / f"clouds/val/{number}.npz", xyz=xyz, label=np.array(label, np.uint8))
        ids = torch.tensor([official.index(i) for i in prediction])
        logits = torch.nn.functional.one_hot(ids, len(official)).float().T[:, None]
        outputs.append({"sem_seg": logits})
    _, name = register_folder(folder)
    evaluator = LongTailEvaluator(name, output_dir=str(tmp_path / "results"))
    evaluator.reset()
    evaluator.process(DatasetCatalog.get(name), outputs)
    return evaluator.evaluate()["sem_seg"]


def scannet_iou(official, scenes):
    """ScanNet: a point counts if its true id is a class; NaN for a class that never appears."""
    hits, total = Counter(), Counter()
    for truth, prediction in scenes:
        for true_id, predicted_id in zip(truth.tolist(), prediction.tolist(), strict=True):
            if true_id in official:
                hits[true_id] += true_id == predicted_id
                total.update({true_id, predicted_id})
    return {i: hits[i] / total[i] if total[i] else math.nan for i in official}


@pytest.mark.parametrize("classes", [scannet.CLASSES_20, scannet.CLASSES_200], ids=len)
def test_scannet(tmp_path, classes):
    official = list(classes)
    absent, never = official[3:14], official[3:7]  # eleven classes, as of ScanNet200 in val
    scenes = random_scenes(official, [0, 37, 9999], absent=absent, never=never, number=2)
    groups = {name: list(ids.values()) for name, ids in scannet.GROUPS.items()}
    is_200 = len(classes) == 200
    metrics = evaluate(tmp_path, classes, scenes, groups=groups if is_200 else None)
    expected = scannet_iou(official, scenes)
    for i, name in classes.items():
        found = metrics[f"IoU-{name}"]
        if i in absent:
            # The official program has 0 for such a class if it is predicted. It is in no mean here.
            assert math.isnan(found) and (
                math.isnan(expected[i]) if i in never else not expected[i]
            )
        else:
            assert found == pytest.approx(100 * expected[i], abs=1e-9)
    means = {"mIoU": official}
    if is_200:
        means |= {f"mIoU@{name}": list(ids) for name, ids in scannet.GROUPS.items()}
        assert [len(ids) for ids in means.values()] == [200, 66, 68, 66]
    assert [name for name in metrics if name.startswith("mIoU")] == list(means)
    for name, ids in means.items():
        mean = np.mean([100 * expected[i] for i in ids if i not in absent])
        assert metrics[name] == pytest.approx(mean, abs=1e-9), name


def kitti_means(scenes):
    """SemanticKITTI: mean IoU and accuracy over 19 classes; points of the ignored class 0 do not
    count, and a class without points has IoU 0."""
    class_of = dict.fromkeys(semantic_kitti.IGNORED, 0)
    class_of |= {i: number for number, i in enumerate(semantic_kitti.CLASSES, 1)}
    class_of |= {i: class_of[kept] for i, kept in semantic_kitti.MERGED.items()}
    counts = np.zeros((20, 20))  # row: prediction, column: ground truth
    for truth, prediction in scenes:
        for true_id, predicted_id in zip(truth.tolist(), prediction.tolist(), strict=True):
            counts[class_of[predicted_id], class_of[true_id]] += class_of[true_id] != 0
    ious = [
        counts[k, k] / max(counts[k].sum() + counts[:, k].sum() - counts[k, k], 1e-15)
        for k in range(1, 20)
    ]
    return 100 * np.mean(ious), 100 * counts.diagonal().sum() / counts.sum()


@pytest.mark.parametrize("absent", [(), (32,)])
def test_semantic_kitti(tmp_path, absent):
    official, merged = list(semantic_kitti.CLASSES), semantic_kitti.MERGED
    moving = [i for i, kept in merged.items() if kept not in absent]
    others = [*semantic_kitti.IGNORED, *moving]
    scenes = random_scenes(official, others, absent=absent)
    metrics = evaluate(tmp_path, semantic_kitti.CLASSES, scenes, merged=merged)
    mean, accuracy = kitti_means(scenes)
    # The official program counts a class without ground truth as 0.
    assert metrics["mIoU"] * (19 - len(absent)) / 19 == pytest.approx(mean, abs=1e-9)
    assert metrics["pACC"] == pytest.approx(accuracy, abs=1e-9)


def test_s3dis_in_six_folds(tmp_path):
    """The six-fold result comes from the sum of the confusion matrices of the six areas."""
    classes = dict(enumerate("abcdefghijklm"))
    total, scenes = torch.zeros(13, 13, dtype=torch.int64), []
    for area in range(6):
        of_area = random_scenes(list(classes), [], absent=[area], seed=area, number=1)
        evaluate(tmp_path / str(area), classes, of_area)
        content = json.loads(
            (tmp_path / str(area) / "results" / "sem_seg_evaluation.json").read_text()
        )
        total += torch.tensor(content["confusion_truth_by_prediction"])
        scenes += of_area
    metrics = confusion_metrics(total, list(classes.values()))
    truth, prediction = map(np.concatenate, zip(*scenes, strict=True))
    ious, recalls = [], []
    for i in classes:
        both = ((truth == i) & (prediction == i)).sum()
        ious.append(both / ((truth == i) | (prediction == i)).sum())
        recalls.append(both / (truth == i).sum())
    assert metrics["mIoU"] == pytest.approx(100 * np.mean(ious), abs=1e-9)
    assert metrics["mACC"] == pytest.approx(100 * np.mean(recalls), abs=1e-9)
    assert metrics["pACC"] == pytest.approx(100 * (truth == prediction).mean(), abs=1e-9)
