import pytest
import torch

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.data.datasets import longtail_shapes
from sar.training import duration, summary
from sar.training.duration import Duration, in_words, measure_duration, num_evaluations

from ..runs import CONFIG

COUNTS = ClassFrequency(("ground", "block", "dot"), 5, (5, 5, 5), (9000, 500, 100), 0)


def test_steps_and_evaluations_add_up():
    found = Duration(0.5, 20, 1000, 0.25, 40, 3, "the CPU (1 thread)")
    assert found.seconds == 1000 * 0.5 + 3 * 40 * 0.25
    text = found.describe()
    assert "About 9 min for 1,000 steps of 0.5 s and 3 evaluations of 40 images at 0.25 s" in text
    assert "Measured on this machine, as busy as it is, with the CPU (1 thread): 20 steps" in text
    assert "An hour is enough for 7,200 steps without evaluation" in text
    assert "evaluations of" not in Duration(0.5, 20, 1000, 0, 0, 0, "x").describe()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(7.4, "7 s"), (99, "99 s"), (101, "2 min"), (5900, "98 min"), (11_100, "3 h 5 min")],
)
def test_times_in_words(seconds, expected):
    assert in_words(seconds) == expected


def test_a_run_is_measured_and_leaves_nothing(overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(duration, "_WARMUP", 1)
    monkeypatch.setattr(duration, "_MOST", 1)
    words = [*overrides, "SOLVER.MAX_ITER", "200", "TEST.EVAL_PERIOD", "100"]
    found = measure_duration(load_config(CONFIG, words), COUNTS)
    assert (found.num_steps, found.num_measured) == (200, 1)
    assert (found.num_images, found.num_evaluations) == (5, 2)
    assert found.step > 0 and found.image > 0
    assert not (tmp_path / "output").exists()


def test_a_model_that_writes_to_detectron2s_storage_is_measured(tmp_path, monkeypatch):
    few = {"train": 2, "val": 1, "test": 1}
    longtail_shapes.generate(tmp_path / "shapes", num_images=few)
    monkeypatch.setattr(longtail_shapes, "generated_folder", lambda *args: tmp_path / "shapes")
    monkeypatch.setattr(longtail_shapes, "NUM_IMAGES", few)
    monkeypatch.setattr(duration, "_WARMUP", 0)
    monkeypatch.setattr(duration, "_MOST", 1)
    config = "configs/LongTailShapes/baseline_panoptic_fpn_R_18.yaml"
    words = ["SOLVER.IMS_PER_BATCH", "1", "DATALOADER.NUM_WORKERS", "0"]
    counts = ClassFrequency.load(tmp_path / "shapes" / "class_frequency.json")
    assert measure_duration(load_config(config, words), counts).step > 0


@pytest.mark.parametrize(("period", "expected"), [(0, 1), (100, 2), (99, 3), (1000, 1)])
def test_a_run_also_evaluates_at_its_end(period, expected):
    words = ["SOLVER.MAX_ITER", "200", "TEST.EVAL_PERIOD", str(period)]
    assert num_evaluations(load_config("", words)) == expected


def test_calls_are_counted_without_warm_up_until_the_time_is_over(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(duration.time, "perf_counter", lambda: now[0])
    calls = []

    def call(seconds):
        calls.append(seconds)
        now[0] += seconds if len(calls) > 2 else 100 * seconds

    assert list(duration._seconds_of(lambda: call(0.1), "cpu")) == pytest.approx([0.1] * 20)
    calls.clear()
    assert list(duration._seconds_of(lambda: call(20.0), "cpu")) == pytest.approx([20.0] * 3)


def test_the_gpu_of_the_config_is_named_and_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    list(duration._seconds_of(lambda: None, "cuda:1"))
    assert set(waited) == {"cuda:1"}
    cfg = load_config("", ["MODEL.DEVICE", "cuda:1"])
    assert duration._describe_device(cfg) == "one GPU of cuda:1"
    assert summary._describe_device(cfg) == "GPU of cuda:1, 1 process"
