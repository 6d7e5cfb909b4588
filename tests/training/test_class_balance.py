import torch
from torch import nn

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency, class_frequency_of
from sar.losses import CLASS_WEIGHTS, CrossEntropy
from sar.modeling.head_loss import SegmentationLoss
from sar.training.class_balance import MAX_ROWS, describe_balance
from sar.training.summary import describe_training

from ..runs import start

COUNTS = ClassFrequency(("ground", "dot\n", "block"), 100, (100, 4, 50), (9000, 10, 990), 0)


def model(weights):
    return nn.ModuleDict({"loss": SegmentationLoss(CrossEntropy(255, weights), stride=4)})


def rows(text):
    return [line.split() for line in text.splitlines()[3:]]


def test_without_weights_and_repeats_there_is_no_table():
    assert describe_balance(load_config(), model(None), COUNTS) == ""


def test_weights_of_the_loss_and_repeat_factors():
    sampling = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    cfg = load_config("", [*sampling, "DATALOADER.REPEAT_THRESHOLD", "1.0"])
    text = describe_balance(cfg, model(torch.tensor([0.5, 21.25, 1.0])), COUNTS)
    assert rows(text) == [
        ["ground", "100", "90", "0.5", "1"],
        ["block", "50", "9.9", "1", "1.41"],
        [r"dot\n", "4", "0.1", "21.2", "5"],
    ]
    assert text.splitlines()[1].split("  ")[-1].strip() == "repeat factor"
    assert rows(describe_balance(cfg, model(None), COUNTS))[2] == [r"dot\n", "4", "0.1", "5"]


def test_of_many_classes_the_most_and_the_least_frequent():
    number = 150
    images = tuple(range(number, 0, -1))
    counts = ClassFrequency(tuple(f"c{k}" for k in range(number)), number, images, images, 0)
    shown = rows(describe_balance(load_config(), model(torch.ones(number)), counts))
    half = MAX_ROWS // 2
    assert [row[0] for row in shown[:half]] == [f"c{k}" for k in range(half)]
    assert shown[half] == ["...", str(number - MAX_ROWS), "more"]
    assert [row[0] for row in shown[-half:]] == [f"c{k}" for k in range(number - half, number)]


def test_the_summary_of_a_run_has_the_weights_of_its_loss(overrides):
    weights = ["MODEL.LOSS.NAME", "cross_entropy", "MODEL.LOSS.CLASS_WEIGHTS", "enet"]
    sampling = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    threshold = ["DATALOADER.REPEAT_THRESHOLD", "1.0"]
    trainer = start([*overrides, *weights, *sampling, *threshold])
    frequency = class_frequency_of(trainer.cfg)
    text = describe_training(trainer.cfg, trainer.model, frequency)
    assert text.count("class weights and repeat factors") == 1
    expected = CLASS_WEIGHTS["enet"](frequency.pixels, frequency.images)
    for name, weight in zip(frequency.class_names, expected.tolist(), strict=True):
        (row,) = [line.split() for line in text.splitlines() if line.startswith(name)]
        assert row[3] == f"{weight:.3g}" and row[4] == "1"
    plain = start([*overrides, "OUTPUT_DIR", overrides[3] + "_plain"])
    assert "weights" not in describe_training(plain.cfg, plain.model, frequency)
