"""What TensorBoard shows after an evaluation, and that the training knows nothing of it."""

import copy
import io
import logging
import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sar.data.class_frequency import ClassFrequency
from sar.data.datasets import longtail_shapes
from sar.data.label_files import read_label
from sar.errors import InputError
from sar.modeling.inference import inference_model
from sar.training import pictures
from sar.training.pictures import MAX_SIZE, Pictures, reduced
from sar.training.trainer import Trainer
from sar.visualization import class_colors, colorize
from sar.visualization.cosines import centred_cosines

from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage, JSONWriter

from ..runs import At, Killed, kill, prepared, terminate, train

ALL = ["0.png", "1.png", "2.png", "3.png", "4.png"]
CLASSIFIER = "cosines/sem_seg_head.predictor"
ANCHORS = "cosines/regularizers.SemanticAnchorRegularizer"
# The gate opens in the first step in which every anchor is classified right.
BOTH = [
    "MODEL.REGULARIZERS", "['SemanticAnchorRegularizer', 'CenterCollapseRegularizer']",
    "MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE", "1e-9",
]  # fmt: skip


def shown(folder):
    """Of each tag the pictures by step, as TensorBoard has them: none twice."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    found = {}
    for tag in events.Tags()["images"]:
        found[tag] = {
            image.step: np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
            for image in events.Images(tag)
        }
        assert len(found[tag]) == len(events.Images(tag)), tag
    return found


@pytest.fixture
def put(overrides):
    """Builds a model of the config with further overrides, and gives what is put for it."""

    def put(*words, model=None):
        cfg = prepared([*overrides, *words])
        if model is None:
            torch.manual_seed(0)
            model = Trainer.build_model(cfg)
        drawn = Pictures(cfg, Trainer.build_test_mapper)
        with EventStorage(7) as storage:
            drawn.put(model, storage)
        assert all(step == 7 for _, _, step in storage._vis_data)
        return {name: picture.transpose(1, 2, 0) for name, picture, _ in storage._vis_data}, model

    return put


def test_tensorboard_shows_each_evaluation_once_and_always_the_same_images(overrides, tmp_path):
    train([*overrides, "TEST.EVAL_PERIOD", "2", "TEST.PICTURES", "3"])
    found = shown(tmp_path / "output")
    images = [tag for tag in found if tag.startswith("predictions/")]
    assert len(images) == 3 and CLASSIFIER in found
    assert all(set(found[tag]) == {1, 4} for tag in [*images, CLASSIFIER])
    assert not np.array_equal(found[CLASSIFIER][1], found[CLASSIFIER][4])


MODES = {
    "whole": [],
    "windows, scales and flips": [
        "TEST.MODE", "slide", "TEST.CROP_SIZE", "(40, 40)", "TEST.CROP_STRIDE", "(24, 24)",
        "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(32, 64)",
    ],
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_image_truth_and_prediction_are_those_of_the_evaluation(mode, overrides, put, folder):
    words = [*MODES[mode], "TEST.PICTURES", "5"]
    found, model = put(*words)
    assert [f"predictions/{name}" for name in ALL] == sorted(found)[1:]
    cfg = prepared([*overrides, *words])
    colors = class_colors(MetadataCatalog.get(cfg.DATASETS.TEST[0]))
    predictor, mapper = inference_model(cfg, model.eval()), Trainer.build_test_mapper(cfg)
    predictions = []
    for name in ALL:
        path = folder / "images" / "val" / name
        with torch.no_grad():
            scores = predictor([mapper({"file_name": str(path)})])[0]["sem_seg"]
        predictions.append(scores.argmax(dim=0).numpy())
        expected = [
            np.asarray(Image.open(path)),
            colorize(read_label(folder / "labels" / "val" / name), colors),
            colorize(predictions[-1], colors),
        ]
        for column, panel in enumerate(expected):
            left = 8 + column * (256 + 8)
            drawn = found[f"predictions/{name}"][30 : 30 + 192, left : left + 256]
            assert np.array_equal(drawn[::4, ::4], panel), column
    assert len(np.unique(predictions)) > 1


def test_the_weights_are_those_of_a_training_without_pictures(overrides, tmp_path):
    words = [*overrides, *BOTH, "TEST.EVAL_PERIOD", "1", "SOLVER.MAX_ITER", "3"]
    plain = train([*words, "TEST.PICTURES", "0", "OUTPUT_DIR", str(tmp_path / "plain")])
    with_pictures = train(words).model.state_dict()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, with_pictures[name]), name
    assert len(shown(tmp_path / "output")) >= 5 and not shown(tmp_path / "plain")


def test_model_and_generators_are_left_as_they_are(overrides):
    cfg = prepared([*overrides, *BOTH])
    model = Trainer.build_model(cfg).train()
    model.regularizers["SemanticAnchorRegularizer"].gate_has_opened.fill_(True)
    state = copy.deepcopy(model.state_dict())
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with EventStorage() as storage:
        Pictures(cfg, Trainer.build_test_mapper).put(model, storage)
    assert len(storage._vis_data) == 6
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(after[0], before[0]) and after[1:] == before[1:]


def test_anchors_are_shown_once_the_gate_has_opened(put):
    found, model = put("TEST.PICTURES", "1")
    assert CLASSIFIER in found and ANCHORS not in found and len(found) == 2
    regularizer = model.regularizers["SemanticAnchorRegularizer"]
    regularizer.gate_has_opened.fill_(True)
    regularizer.semantic_anchors.copy_(torch.eye(3, 16))
    found, _ = put("TEST.PICTURES", "1", model=model)
    simplex = found[ANCHORS]
    assert ANCHORS in found and not np.array_equal(simplex, found[CLASSIFIER])
    regularizer.semantic_anchors[1] = regularizer.semantic_anchors[2]
    found, _ = put("TEST.PICTURES", "1", model=model)
    assert not np.array_equal(found[ANCHORS], simplex)


def test_classes_come_from_the_most_frequent_to_the_rarest(put, monkeypatch, tmp_path):
    drawn = []

    def plot_cosines(cosines, class_names, titles):
        drawn.append((cosines, class_names, titles))
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(pictures, "plot_cosines", plot_cosines)
    counts = ClassFrequency(("ground", "block", "dot"), 9, (5, 3, 8), (5, 3, 8), 0)
    counts.save(tmp_path / "counts.json")
    _, model = put("DATASETS.CLASS_FREQUENCY", str(tmp_path / "counts.json"))
    vectors = model.sem_seg_head.predictor.weight[:, :, 0, 0].detach().double().numpy()
    (cosines, names, titles) = drawn[0]
    assert list(names) == ["dot", "ground", "block"] and "most frequent" in titles[1]
    assert np.array_equal(cosines, centred_cosines(vectors[[2, 0, 1]]))


@pytest.mark.parametrize("regularizers", ["[]", "['CenterCollapseRegularizer']"])
def test_other_models_have_the_classifier_alone_or_nothing(regularizers, put):
    words = ["MODEL.REGULARIZERS", regularizers, "TEST.PICTURES", "1"]
    found, _ = put(*words)
    assert [tag for tag in found if tag.startswith("cosines/")] == [CLASSIFIER]
    if regularizers == "[]":
        found, _ = put(*words, "MODEL.CLASSIFIER", "nowhere")
        assert len(found) == 1 and CLASSIFIER not in found


def test_without_pictures_nothing_is_read(put, monkeypatch):
    monkeypatch.setattr(pictures, "load_dataset", None)
    assert put("TEST.PICTURES", "0")[0] == {}
    with pytest.raises(InputError, match="TEST.PICTURES is -1, expected 0 or more"):
        put("TEST.PICTURES", "-1")


def test_images_of_rare_classes_come_first(put, folder):
    """Rare in training: in this test set, "block" is what only one image shows."""
    for index in range(5):
        labels = np.full((48, 64), 255, np.uint8)
        labels[10:20] = 2 if index == 3 else 0
        labels[30:40] = 1 if index == 1 else 0
        Image.fromarray(labels).save(folder / "labels" / "val" / f"{index}.png")
        labels[30:40, :32] = 1
        labels[10:20] = 2 if index == 2 else 0
        Image.fromarray(labels).save(folder / "labels" / "train" / f"{index}.png")
    for number, expected in ((1, {"3"}), (2, {"1", "3"})):
        found, _ = put("TEST.PICTURES", str(number))
        assert {tag[12:-4] for tag in found if tag.startswith("predictions/")} == expected


def test_of_a_large_data_set_few_labels_are_read(put, monkeypatch):
    records = [
        {"file_name": f"/data/{i // 500}/{i}.png", "sem_seg_file_name": str(i)} for i in range(1000)
    ]
    read = []

    def classes_shown(dicts, *args, **kwargs):
        read.extend(record["sem_seg_file_name"] for record in dicts)
        return [[0]] * len(dicts)

    chosen = []
    monkeypatch.setattr(pictures, "load_dataset", lambda name: records)
    monkeypatch.setattr(pictures, "classes_shown", classes_shown)
    choose = Pictures._choose_records
    monkeypatch.setattr(Pictures, "_choose_records", lambda self: chosen.append(choose(self)) or {})
    put()
    assert len(read) == 64 and {"0", "999"} <= set(read)
    assert len(chosen[0]) == 4 and all(record in records for record in chosen[0].values())
    assert {name.split("/")[0] for name in chosen[0]} == {"0", "1"}  # names tell folders apart

    read.clear()
    del records[500]["sem_seg_file_name"]
    put("TEST.PICTURES", "3")
    assert not read and [*chosen[1]] == ["0/0.png", "1/500.png", "1/999.png"]


def test_an_image_without_a_label_is_drawn_without_truth(put, monkeypatch, folder):
    record = {"file_name": str(folder / "images" / "val" / "0.png")}
    monkeypatch.setattr(pictures, "load_dataset", lambda name: [record])
    found, _ = put()
    assert found["predictions/0.png"].shape[1] == 2 * (256 + 8) + 8


def test_a_picture_that_cannot_be_drawn_is_no_reason_to_stop(
    overrides, tmp_path, monkeypatch, caplog
):
    def fail(*args):
        raise RuntimeError("no ink")

    monkeypatch.setattr(pictures, "side_by_side", fail)
    trainer = train([*overrides, "TEST.EVAL_PERIOD", "2"])
    assert trainer.iter == 4 and trainer.model.training
    assert shown(tmp_path / "output") == {}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage().split(". ")[0] for record in errors] == [
        f"No pictures of iteration {i} could be drawn" for i in (1, 4)
    ]
    assert "no ink" in caplog.text and "TEST.PICTURES 0" in caplog.text


def test_where_nothing_writes_images_none_are_kept(overrides, tmp_path, monkeypatch):
    def fail(*args):
        raise AssertionError

    monkeypatch.setattr(Pictures, "put", fail)
    monkeypatch.setattr(
        Trainer, "build_writers", lambda self: [JSONWriter(str(tmp_path / "metrics.json"))]
    )
    assert train(overrides).storage._vis_data == []


def test_without_tensorboard_it_is_said_what_is_missing(overrides, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="TensorBoard cannot be imported .*pip install"):
        train(overrides)


@pytest.mark.slow
def test_a_resumed_run_shows_each_step_once(overrides, tmp_path):
    words = [
        *overrides, "SOLVER.MAX_ITER", "6", "TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD",
        "3",
    ]  # fmt: skip
    uninterrupted = [*words, "OUTPUT_DIR", str(tmp_path / "expected")]
    train(uninterrupted)
    with pytest.raises(Killed):  # after the checkpoint of iteration 2, and the evaluation of 3
        train(words, At(4, kill))
    with pytest.raises(SystemExit):  # before the evaluation of 3, which is made up for
        train(words, At(3, terminate), resume=True)
    train(words, resume=True)
    found, expected = (shown(tmp_path / name) for name in ("output", "expected"))
    assert found.keys() == expected.keys() and len(found) >= 5
    for tag, steps in expected.items():
        assert set(found[tag]) == set(steps) and (tag == ANCHORS or set(steps) == {1, 3, 6}), tag
        assert all(np.array_equal(found[tag][step], steps[step]) for step in steps), tag


def test_the_semantic_branch_of_panoptic_models_is_drawn(tmp_path, monkeypatch):
    longtail_shapes.generate(tmp_path / "shapes", num_images={"train": 4, "val": 2, "test": 1})
    monkeypatch.setattr(longtail_shapes, "generated_folder", lambda *args: tmp_path / "shapes")
    monkeypatch.setattr(longtail_shapes, "NUM_IMAGES", {"train": 4, "val": 2, "test": 1})
    config = "configs/LongTailShapes/sar_panoptic_fpn_R_18.yaml"
    words = ["OUTPUT_DIR", str(tmp_path / "output"), "DATASETS.CHECK", "False"]
    cfg = prepared(words, config_file=config)
    with EventStorage() as storage:
        Pictures(cfg, Trainer.build_test_mapper).put(Trainer.build_model(cfg), storage)
    names = [name for name, *_ in storage._vis_data]
    assert names == ["predictions/0000.png", "predictions/0001.png", CLASSIFIER]


def test_huge_images_are_made_smaller_and_ids_stay_ids():
    image = np.zeros((1000, 2000, 3), np.uint8)
    image[::2] = 200
    small = reduced(image)
    assert small.shape == (MAX_SIZE // 2, MAX_SIZE, 3)
    assert (np.abs(small[8:-8].astype(int) - 100) < 60).all()  # averaged, not picked
    labels = np.full((1000, 2000), 7, np.uint16)
    labels[:, 1000:] = 65535
    small = reduced(labels)
    assert small.shape == (MAX_SIZE // 2, MAX_SIZE)
    assert np.unique(small).tolist() == [7, 65535] and (small == 7).mean() == 0.5
    assert reduced(labels[:100, :100]).shape == (100, 100)
    assert reduced(np.zeros((1, 5000), np.uint8)).shape == (1, MAX_SIZE)
