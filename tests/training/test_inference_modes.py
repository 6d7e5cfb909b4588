"""Inference modes in evaluation, in evaluation during training, and in pictures."""

import runpy

import pytest

from sar.config import load_config
from sar.errors import InputError
from sar.training.trainer import Trainer

from detectron2.modeling import FPN

from ..runs import CONFIG, prepared

# Five images of 48 x 64: 2 x 2 windows, at two sizes, and flipped.
ALL_MODES = [
    "INPUT.MIN_SIZE_TEST", "48", "TEST.MODE", "slide", "TEST.CROP_SIZE", "(32, 48)",
    "TEST.CROP_STRIDE", "(32, 48)", "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(0, 48)",
]  # fmt: skip
NUM_CALLS = 5 * 4 * 2 * 2


@pytest.fixture
def evaluation_calls(monkeypatch):
    """Record the input sizes of the backbone in evaluation."""
    calls, forward = [], FPN.forward

    def counted(self, images):
        if not self.training:
            calls.append(tuple(images.shape))
        return forward(self, images)

    monkeypatch.setattr(FPN, "forward", counted)
    return calls


def test_evaluation_during_training_and_after_it(overrides, tmp_path, evaluation_calls):
    overrides = [*overrides, "SOLVER.MAX_ITER", "2", "TEST.PICTURES", "0", *ALL_MODES]
    trainer = Trainer(prepared(overrides, eval_only=False))
    trainer.train()
    assert evaluation_calls == [(1, 3, 32, 64)] * NUM_CALLS  # padded to multiples of 32
    assert trainer.model.training

    evaluation_calls.clear()
    weights = str(tmp_path / "output" / "model_final.pth")
    cfg = prepared([*overrides, "MODEL.WEIGHTS", weights], eval_only=True)
    model = Trainer.load_for_evaluation(cfg)
    results = Trainer.test(cfg, model)
    assert len(evaluation_calls) == NUM_CALLS and not model.training
    assert repr(results) == repr(trainer._last_eval_results)  # repr: absent classes are NaN


def test_metrics_of_one_window_are_those_of_the_whole(overrides):
    cfg = prepared(overrides, eval_only=False)
    model = Trainer.build_model(cfg).eval()
    whole = Trainer.test(cfg, model)
    one_window = prepared([*overrides, "TEST.MODE", "slide"], eval_only=False)
    assert repr(Trainer.test(one_window, model)) == repr(whole)


def test_pictures(overrides, tmp_path, monkeypatch, evaluation_calls):
    draw = runpy.run_path("tools/visualize.py")["main"]
    monkeypatch.setattr(Trainer, "load_for_evaluation", lambda cfg: Trainer.build_model(cfg).eval())
    words = ["--config-file", CONFIG, "--output", str(tmp_path / "pictures")]
    draw([*words, *overrides, *ALL_MODES])
    assert len(evaluation_calls) == NUM_CALLS
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 5


def test_bad_modes_are_seen_before_anything_runs(overrides):
    with pytest.raises(InputError, match="TEST.CROP_STRIDE"):
        prepared([*overrides, *ALL_MODES, "TEST.CROP_STRIDE", "(33, 48)"])


def test_augmentation_is_given_what_is_in_the_files(folder):
    record = {"file_name": str(folder / "images" / "val" / "0.png")}
    cfg = load_config("", ["INPUT.MIN_SIZE_TEST", "24"])
    assert Trainer.build_test_mapper(cfg)(record)["image"].shape == (3, 24, 32)
    cfg = load_config("", ["INPUT.MIN_SIZE_TEST", "24", "TEST.AUG.ENABLED", "True"])
    assert Trainer.build_test_mapper(cfg)(record)["image"].shape == (3, 48, 64)
