import inspect
import json
import logging
import math
import os
import pickle
import warnings

import sar  # noqa: F401  # isort: skip  (before detectron2)
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError
from sar.evaluation import LongTailEvaluator
from sar.losses import CrossEntropy
from sar.modeling.head_loss import SegmentationLoss

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import SemSegEvaluator

from ..distributed import run_processes

NAMES = ["road", "sky", "car", "pole", "sign"]
K = len(NAMES)
SIZE = (24, 36)
# detectron2 0.6 also divides mIoU by classes that are predicted but have no ground truth.
DETECTRON2_IS_MAIN = "sem_seg_loading_fn" in inspect.signature(SemSegEvaluator).parameters
FREQUENCY = ClassFrequency(
    class_names=tuple(NAMES),
    num_images=10,
    images=(10, 9, 1, 5, 2),
    pixels=(900, 1000, 80, 10, 40),
    ignored_pixels=0,
)


def write_labels(folder, num_images, *, seed=0, absent=(), num_classes=K, ignore=255):
    """Data set dicts of random label maps in blocks of 4 x 4, with ignored pixels."""
    rng = np.random.default_rng(seed)
    ids = [i for i in range(num_classes) if i not in absent]
    records = []
    for i in range(num_images):
        label = rng.choice(ids, size=(SIZE[0] // 4, SIZE[1] // 4)).repeat(4, 0).repeat(4, 1)
        label[rng.random(SIZE) < 0.1] = ignore
        label = label.astype(np.uint8 if ignore < 256 else np.uint16)
        path = folder / f"label{i}.png"
        Image.fromarray(label).save(path)
        records.append({"file_name": f"image{i}.png", "sem_seg_file_name": str(path)})
    return records


def logits_for(index, num_classes=K, never=()):
    """A random prediction of the image with this index, with ties, the same in every process."""
    generator = torch.Generator().manual_seed(index)
    logits = torch.randint(0, 4, (num_classes, *SIZE), generator=generator).float()
    logits[list(never)] = -1.0
    return {"sem_seg": logits}


def register_data_set(records, name="evaluator_test", **metadata):
    DatasetCatalog.register(name, lambda: records)
    metadata = {"stuff_classes": NAMES, "ignore_label": 255} | metadata
    MetadataCatalog.get(name).set(
        **{key: value for key, value in metadata.items() if value is not None}
    )
    return name


@pytest.fixture
def register():
    """Registers data sets, and forgets them after the test."""
    registered = []

    def register(*args, **kwargs):
        registered.append(register_data_set(*args, **kwargs))
        return registered[-1]

    yield register
    for name in registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def run(evaluator, records, outputs=None):
    evaluator.reset()
    for i, record in enumerate(records):
        # As detectron2's mapper does, the name of the label is left out.
        evaluator.process([{"file_name": record["file_name"]}], [(outputs or logits_for)(i)])
    return evaluator.evaluate()


def assert_equal_to_detectron2(ours, theirs, names):
    theirs = {k: v for k, v in theirs.items() if not k.startswith(("BoundaryIoU", "min(IoU"))}
    assert set(theirs) <= set(ours)
    assert {"mIoU", "fwIoU", "mACC", "pACC", f"IoU-{names[0]}", f"ACC-{names[-1]}"} < set(theirs)
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=1e-9, rel=0, nan_ok=True), key


@pytest.mark.parametrize("absent", [(), (1,), (0, 3)])
@pytest.mark.parametrize("absent_is_predicted", [False, True])
def test_metrics_equal_detectron2(tmp_path, register, absent, absent_is_predicted):
    records = write_labels(tmp_path, 7, absent=absent)
    name = register(records)

    def outputs(i):
        return logits_for(i, never=() if absent_is_predicted else absent)

    theirs = run(SemSegEvaluator(name, distributed=False), records, outputs)["sem_seg"]
    ours = run(LongTailEvaluator(name), records, outputs)["sem_seg"]
    if absent and absent_is_predicted and not DETECTRON2_IS_MAIN:
        # What main computes, from the IoUs of 0.6.
        theirs["mIoU"] = np.nanmean([theirs[f"IoU-{n}"] for n in NAMES])
    assert_equal_to_detectron2(ours, theirs, NAMES)
    for i, class_name in enumerate(NAMES):
        assert math.isnan(ours[f"IoU-{class_name}"]) == (i in absent)


def test_150_classes_equal_detectron2(tmp_path, register):
    names = [f"class {i}" for i in range(150)]
    # So many images that no class is absent.
    records = write_labels(tmp_path, 40, num_classes=150)
    name = register(records, stuff_classes=names)

    def outputs(i):
        return logits_for(i, num_classes=150)

    theirs = run(SemSegEvaluator(name, distributed=False), records, outputs)["sem_seg"]
    ours = run(LongTailEvaluator(name), records, outputs)["sem_seg"]
    assert not any(math.isnan(ours[f"IoU-{n}"]) for n in names)
    assert_equal_to_detectron2(ours, theirs, names)


def test_16_bit_labels(tmp_path, register):
    names = [f"class {i}" for i in range(300)]
    records = write_labels(tmp_path, 2, num_classes=300, ignore=65535)
    name = register(records, stuff_classes=names, ignore_label=65535)
    truths = [np.array(Image.open(r["sem_seg_file_name"]), dtype=np.int64) for r in records]

    def outputs(i):
        perfect = torch.nn.functional.one_hot(torch.from_numpy(truths[i]).clamp(max=299), 300)
        return {"sem_seg": perfect.permute(2, 0, 1).float()}

    metrics = run(LongTailEvaluator(name), records, outputs)["sem_seg"]
    assert metrics["pACC"] == 100 and metrics["mIoU"] == 100


def test_groups_by_images_and_by_pixels(tmp_path, register):
    records = write_labels(tmp_path, 5, absent=(4,))
    name = register(records)
    metrics = run(LongTailEvaluator(name, class_frequency=FREQUENCY), records)["sem_seg"]
    iou = [metrics[f"IoU-{n}"] for n in NAMES]
    groups = [f"mIoU@{g}{level}" for level in ("", "_pixel") for g in "fcr"]
    assert [name for name in metrics if "@" in name] == groups
    # By images: 0, 1, 3 | 4 | 2; by pixels: 1, 0, 2 | 4 | 3. Class 4 has no ground truth.
    assert metrics["mIoU@f"] == pytest.approx((iou[0] + iou[1] + iou[3]) / 3, abs=1e-12)
    assert metrics["mIoU@r"] == pytest.approx(iou[2], abs=1e-12)
    assert metrics["mIoU@f_pixel"] == pytest.approx((iou[0] + iou[1] + iou[2]) / 3, abs=1e-12)
    assert metrics["mIoU@r_pixel"] == pytest.approx(iou[3], abs=1e-12)
    assert math.isnan(metrics["mIoU@c"]) and math.isnan(metrics["mIoU@c_pixel"])


def test_own_groups_of_the_data_set(tmp_path, register):
    records = write_labels(tmp_path, 5, absent=(4,))
    own = {"things": [2, 3, 4], "last": [4]}
    name = register(records, own_groups=own)
    evaluator = LongTailEvaluator(
        name,
        class_frequency=FREQUENCY,
        output_dir=str(tmp_path / "output"),
        boundary_iou=True,
        object_iou=0.5,
    )
    metrics = run(evaluator, records)["sem_seg"]
    # Class 4 has no ground truth.
    expected = (metrics["IoU-car"] + metrics["IoU-pole"]) / 2
    assert metrics["mIoU@things"] == pytest.approx(expected, abs=1e-12)
    assert math.isnan(metrics["mIoU@last"]) and "mIoU@r" in metrics
    assert {"mBoundaryIoU@things", "mObjectRecall@things"} < set(metrics)
    content = json.loads((tmp_path / "output" / "sem_seg_evaluation.json").read_text())
    assert content["own_groups"] == own and set(content["groups"]) >= {"f", "c", "r"}
    assert content["metrics"]["mIoU@last"] is None


def test_no_groups_without_class_frequency(tmp_path, register):
    records = write_labels(tmp_path, 1)
    metrics = run(LongTailEvaluator(register(records)), records)["sem_seg"]
    assert not [key for key in metrics if "@" in key]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_ties_and_nan_are_decided_as_by_argmax(dtype):
    logits = torch.stack([logits_for(i, num_classes=30)["sem_seg"] for i in range(3)]).to(dtype)
    logits[2, ::7, ::3, ::2] = math.nan
    for image in (*logits, logits[0].permute(0, 2, 1)):
        assert torch.equal(image.max(dim=0).indices, image.argmax(dim=0))


def test_label_named_by_the_input_needs_no_catalog(tmp_path, register):
    records = write_labels(tmp_path, 1)
    name = "evaluator_test_lazy"
    register(records, name)
    DatasetCatalog.remove(name)
    calls = []
    DatasetCatalog.register(name, lambda: calls.append(1) or records)
    evaluator = LongTailEvaluator(name)
    evaluator.reset()
    evaluator.process([records[0]], [logits_for(0)])
    assert not calls
    for _ in range(2):
        evaluator.process([{"file_name": "image0.png"}], [logits_for(0)])
    assert len(calls) == 1


def test_optional_metrics_are_added_and_change_nothing_else(tmp_path, register):
    records = write_labels(tmp_path, 3)
    name = register(records)
    plain = run(LongTailEvaluator(name, class_frequency=FREQUENCY), records)["sem_seg"]
    metrics = run(complete_evaluator(tmp_path), records)["sem_seg"]
    assert {key: metrics[key] for key in plain} == plain
    added = {key.partition("-")[0].partition("@")[0] for key in metrics.keys() - plain.keys()}
    names = {"BoundaryIoU", "ObjectRecall", "ObjectPrecision"}
    assert added == {"Loss", *names, *(f"m{name}" for name in names)}

    # Against one confusion matrix and one mask of each class.
    counts = json.loads((tmp_path / "sem_seg_evaluation.json").read_text())["objects"]
    assert counts.pop("min_iou") == 0.2
    truths = [np.array(Image.open(r["sem_seg_file_name"])) for r in records]
    numbers = [sum(ndimage.label(t == k, np.ones((3, 3)))[1] for t in truths) for k in range(K)]
    assert counts["objects"] == numbers
    recall = [100 * a / b for a, b in zip(counts["found"], numbers, strict=True)]
    assert [metrics[f"ObjectRecall-{name}"] for name in NAMES] == pytest.approx(recall)
    assert metrics["mObjectRecall@r"] == pytest.approx(recall[2])


@pytest.mark.parametrize("dataset_ids", [None, [7, 11, 13, 200, 3]])
def test_json_equals_detectron2(tmp_path, register, dataset_ids):
    records = write_labels(tmp_path, 4)
    metadata = {}
    if dataset_ids:
        own = {dataset_id: i for i, dataset_id in enumerate(dataset_ids)}
        metadata["stuff_dataset_id_to_contiguous_id"] = own
    name = register(records, **metadata)
    run(SemSegEvaluator(name, distributed=False, output_dir=str(tmp_path / "theirs")), records)
    run(LongTailEvaluator(name, output_dir=str(tmp_path / "ours"), save_json=True), records)
    theirs = (tmp_path / "theirs" / "sem_seg_predictions.json").read_text()
    ours = (tmp_path / "ours" / "sem_seg_predictions.json").read_text()
    assert len(json.loads(ours)) >= 4 * 2
    assert ours == theirs
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == [
        "sem_seg_evaluation.json",
        "sem_seg_predictions.json",
    ]


def test_files(tmp_path, register):
    records = write_labels(tmp_path, 3, absent=(1,))
    name = register(records)
    output_dir = tmp_path / "inference"
    evaluator = LongTailEvaluator(name, class_frequency=FREQUENCY, output_dir=str(output_dir))
    metrics = run(evaluator, records)["sem_seg"]
    assert [p.name for p in output_dir.iterdir()] == ["sem_seg_evaluation.json"]

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (output_dir / "sem_seg_evaluation.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert content["metrics"]["IoU-sky"] is None
    assert content["metrics"]["mIoU"] == metrics["mIoU"]
    assert list(content["metrics"]) == list(metrics)
    assert content["num_images"] == 3 and content["dataset"] == name
    assert content["groups"]["r"] == [2]
    confusion = np.array(content["confusion_truth_by_prediction"])
    truth = np.concatenate([np.array(Image.open(r["sem_seg_file_name"])).ravel() for r in records])
    assert confusion.sum(1).tolist() == [(truth == i).sum() for i in range(K)]


def test_log(tmp_path, register, caplog):
    records = write_labels(tmp_path, 2, absent=(1, 3))
    name = register(records)
    with caplog.at_level(logging.INFO, logger="sar.evaluation"):
        caplog.handler.setLevel(logging.INFO)
        logger = logging.getLogger("sar.evaluation.evaluator")
        logger.addHandler(caplog.handler)  # also if a parent does not propagate
        try:
            run(LongTailEvaluator(name, class_frequency=FREQUENCY), records)
        finally:
            logger.removeHandler(caplog.handler)
    assert f'without ground truth in "{name}", left out of the means: sky, pole.' in caplog.text
    assert "mIoU@r" in caplog.text and "2 images" in caplog.text


def test_evaluator_holds_nothing_of_the_images(tmp_path, register):
    records = write_labels(tmp_path, 30)
    evaluator = LongTailEvaluator(register(records), output_dir=str(tmp_path), save_json=True)
    evaluator.reset()
    sizes = []
    for i, record in enumerate(records):
        evaluator.process([{"file_name": record["file_name"]}], [logits_for(i)])
        sizes.append(len(pickle.dumps(vars(evaluator))))
    assert sizes[0] == sizes[-1]


def test_reset_forgets_the_round_before(tmp_path, register):
    records = write_labels(tmp_path, 4)
    evaluator = LongTailEvaluator(register(records), output_dir=str(tmp_path), save_json=True)
    run(evaluator, records)
    again = run(evaluator, records[:2])
    fresh = run(LongTailEvaluator("evaluator_test"), records[:2])
    assert again == fresh
    entries = json.loads((tmp_path / "sem_seg_predictions.json").read_text())
    assert {e["file_name"] for e in entries} == {"image0.png", "image1.png"}


def test_all_pixels_ignored_is_nan_and_no_warning(tmp_path, register):
    # As the test sets of servers that keep the ground truth private.
    records = write_labels(tmp_path, 1)
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(records[0]["sem_seg_file_name"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = run(LongTailEvaluator(register(records)), records)["sem_seg"]
    assert all(math.isnan(value) for value in metrics.values())


def test_clouds_without_ground_truth_are_an_error(tmp_path, register):
    path = tmp_path / "test.npz"
    np.savez(path, xyz=np.ones((7, 3)), label=np.full(7, 255))
    records = [{"file_name": str(path), "sem_seg_file_name": str(path)}]
    evaluator = LongTailEvaluator(register(records))
    with pytest.raises(InputError, match="No point of .*evaluator_test.* all labels are 255"):
        run(evaluator, records, lambda _: {"sem_seg": torch.zeros(K, 1, 7)})


def test_labels_that_a_cloud_holds_are_not_read_again(tmp_path, register):
    path, copy = str(tmp_path / "a.npz"), str(tmp_path / "labels.npz")
    label = np.arange(7) % K
    np.savez(copy, xyz=np.ones((7, 3)), label=label)
    scores = torch.nn.functional.one_hot(torch.from_numpy(label), K).T[:, None].float()
    evaluator = LongTailEvaluator(register([]))
    sample = {"file_name": path, "cloud_label": label, "sem_seg_file_name": path}  # not written
    for changed in ({}, {"sem_seg_file_name": copy, "cloud_label": label + 1}):
        evaluator.reset()
        evaluator.process([sample | changed], [{"sem_seg": scores}])
        assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100
    with pytest.raises(InputError, match="a.npz has the ids 7, 8, 9, 10, 11, which"):
        evaluator.process([sample | {"cloud_label": label + 7}], [{"sem_seg": scores}])


def test_the_log_counts_clouds(tmp_path, register, caplog):
    path = tmp_path / "test.npz"
    np.savez(path, xyz=np.ones((7, 3)), label=np.zeros(7, int))
    records = [{"file_name": str(path), "sem_seg_file_name": str(path)}]
    evaluator = LongTailEvaluator(register(records), class_frequency=FREQUENCY)
    with caplog.at_level("INFO"):
        run(evaluator, records, lambda _: {"sem_seg": torch.zeros(K, 1, 7)})
    assert 'Evaluation of "evaluator_test", 1 clouds:' in caplog.text
    assert "train points %" in caplog.text and "image" not in caplog.text


# Several processes


def complete_evaluator(output_dir):
    """Measures everything that needs no model."""
    weights = torch.tensor([0.1, 0.2, 4.0, 3.0, 1.0])
    return LongTailEvaluator(
        "evaluator_test",
        class_frequency=FREQUENCY,
        output_dir=str(output_dir),
        save_json=True,
        boundary_iou=True,
        object_iou=0.2,
        loss=SegmentationLoss(CrossEntropy(255, weights), stride=4),
    )


def evaluate_shares(rank, folder, records, cases):
    """Evaluates as many images as each of the cases says, which the processes share."""
    register_data_set(records)
    for num_images in cases:
        evaluator = complete_evaluator(folder / f"together{num_images}")
        for _ in range(2):  # twice in a row, as for two data sets or two evaluations in training
            evaluator.reset()
            for i in InferenceSampler(num_images):
                evaluator.process([{"file_name": records[i]["file_name"]}], [logits_for(i)])
            results = evaluator.evaluate()
            assert (results is None) == (rank > 0)

        evaluator.reset()
        with pytest.raises(InputError, match="No image"):
            evaluator.evaluate()


# Numbers of images: shares that are equal, unequal, and none at all.
@pytest.mark.parametrize("num_processes, cases", [(2, (1, 5, 6)), (3, (1, 2, 5, 7))])
def test_several_processes_give_the_same_as_one(tmp_path, register, num_processes, cases):
    records = write_labels(tmp_path, 7)
    run_processes(evaluate_shares, num_processes, tmp_path, records, cases)
    register(records)
    for num_images in cases:
        alone, together = tmp_path / f"alone{num_images}", tmp_path / f"together{num_images}"
        run(complete_evaluator(alone), records[:num_images])
        predictions, results = (
            [(folder / f"sem_seg_{name}.json").read_text() for folder in (together, alone)]
            for name in ("predictions", "evaluation")
        )
        assert predictions[0] == predictions[1]
        found, expected = map(json.loads, results)
        loss = expected["metrics"].pop("Loss")  # a sum in another order
        assert found["metrics"].pop("Loss") == pytest.approx(loss, rel=1e-12) and loss > 1
        assert expected["metrics"]["mBoundaryIoU"] > 0 and sum(expected["objects"]["found"]) > 0
        assert found == expected


# Bad input


def test_unknown_data_set_names_the_nearest(register):
    register([], "evaluator_test_val")
    with pytest.raises(InputError, match='"evaluator_tst_val".*mean "evaluator_test_val"'):
        LongTailEvaluator("evaluator_tst_val")


@pytest.mark.parametrize("key", ["stuff_classes", "ignore_label"])
def test_metadata_that_lack_something(register, key):
    name = register([], **{key: None})
    with pytest.raises(InputError, match=f'"{name}" have no {key}.*MetadataCatalog'):
        LongTailEvaluator(name)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:-1], "has 4 classes, but data set .* has 5"),
        ([*NAMES[:3], "Pole", "sign"], 'Class 3 is "Pole" in the class-frequency file, but "pole"'),
    ],
)
def test_class_frequency_of_other_classes(register, names, message):
    k = len(names)
    frequency = ClassFrequency(tuple(names), 9, (1,) * k, (1,) * k, 0)
    with pytest.raises(InputError, match=f"{message}.*check_dataset"):
        LongTailEvaluator(register([]), class_frequency=frequency)


def test_no_image(register):
    evaluator = LongTailEvaluator(register([]))
    evaluator.reset()
    with pytest.raises(InputError, match='No image of data set "evaluator_test".*DATASETS.TEST'):
        evaluator.evaluate()


def test_prediction_of_another_number_of_classes(tmp_path, register):
    records = write_labels(tmp_path, 1)
    message = 'predicts 6 classes.*"evaluator_test" has 5.*MODEL.SEM_SEG_HEAD.NUM_CLASSES to 5'
    with pytest.raises(InputError, match=message):
        run(LongTailEvaluator(register(records)), records, lambda i: logits_for(i, num_classes=6))


def test_label_of_another_size(tmp_path, register):
    records = write_labels(tmp_path, 1)
    path = records[0]["sem_seg_file_name"]
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(path)
    with pytest.raises(
        InputError, match="label0.png is 12 x 10 pixels .*, but its image is 36 x 24"
    ):
        run(LongTailEvaluator(register(records)), records)


def test_label_ids_that_are_no_class(tmp_path, register):
    records = write_labels(tmp_path, 1)
    label = np.full(SIZE, 255, np.uint8)
    label[3, 4:7] = [5, 0, 254]
    Image.fromarray(label).save(records[0]["sem_seg_file_name"])
    message = (
        r"label0.png has the ids 5, 254, which .*\(0 to 4\) nor the ignore id 255.*check_dataset"
    )
    with pytest.raises(InputError, match=message):
        run(LongTailEvaluator(register(records)), records)


def test_image_without_label(tmp_path, register):
    records = write_labels(tmp_path, 2)
    del records[1]["sem_seg_file_name"]
    with pytest.raises(InputError, match="no label file for image image1.png"):
        run(LongTailEvaluator(register(records)), records)


def test_label_file_that_is_gone(tmp_path, register):
    records = write_labels(tmp_path, 1)
    os.remove(records[0]["sem_seg_file_name"])
    with pytest.raises(InputError, match="label0.png"):
        run(LongTailEvaluator(register(records)), records)


def test_json_without_a_folder_or_with_a_class_that_has_no_id(tmp_path, register):
    name = register([], stuff_dataset_id_to_contiguous_id={8: 0, 9: 1, 10: 2, 12: 4})
    with pytest.raises(InputError, match="output_dir"):
        LongTailEvaluator(name, save_json=True)
    with pytest.raises(InputError, match=r'class 3 \("pole"\).*TEST.SAVE_JSON'):
        LongTailEvaluator(name, output_dir=str(tmp_path), save_json=True)
