import pytest

from sar.advice.schedule import advise_on_schedule
from sar.config import load_config
from sar.data.class_frequency import ClassFrequency

REPEAT = {"DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler"}


def advice(steps, num_images=80, rare=5, keys=(), *overrides):
    """Of `num_images` images, `rare` show class 1 next to class 0; a batch of 8."""
    shown = [[0, 1]] * rare + [[0]] * (num_images - rare)
    counts = ClassFrequency(("road", "dot"), num_images, (num_images, rare), (9, 1), 0)
    words = ["SOLVER.MAX_ITER", str(steps), "SOLVER.IMS_PER_BATCH", "8"]
    cfg = load_config("", [*words, "SOLVER.WARMUP_ITERS", "50", *overrides])
    return advise_on_schedule(counts, shown, cfg, dict(keys))


def test_epochs_and_samples_of_the_rarest_class():
    text = advice(1500).text
    assert "An epoch has 80 images, or 10 steps of 8." in text
    assert "SOLVER.MAX_ITER 1500 is 150 epochs, in which dot is on 750 of 12,000 samples" in text


def test_repetitions_make_an_epoch_longer():
    # f = 5 / 80, so each of the 5 images is repeated sqrt(1 / f) = 4 times: 20 + 75 samples.
    text = advice(950, keys=REPEAT | {"DATALOADER.REPEAT_THRESHOLD": "1.0"}).text
    assert "80 images (95 with repetitions), or 12 steps of 8" in text
    assert "80 epochs, in which dot is on 1,600 of 7,600 samples" in text


def test_the_sampler_of_the_config_counts_unless_a_key_replaces_it():
    words = [word for pair in REPEAT.items() for word in pair]
    words += ["DATALOADER.REPEAT_THRESHOLD", "1.0"]
    assert "with repetitions" in advice(1500, 80, 5, (), *words).text
    plain = {"DATALOADER.SAMPLER_TRAIN": "TrainingSampler"}
    assert "with repetitions" not in advice(1500, 80, 5, plain, *words).text


@pytest.mark.parametrize(
    ("steps", "expected"),
    # 20 epochs are 400 steps, 200 epochs are 4,000.
    [(399, "800"), (400, None), (4000, None), (4001, "2000")],
)
def test_short_and_long_trainings(steps, expected):
    keys = advice(steps, num_images=160).keys
    assert keys == ({} if expected is None else {"SOLVER.MAX_ITER": expected})


def test_few_images_still_need_some_steps():
    assert advice(20_000, num_images=8).keys == {"SOLVER.MAX_ITER": "1000"}
    assert advice(900, num_images=8).keys == {}


def test_the_warm_up_is_shortened_with_the_training():
    keys = advice(20_000, 80, 5, (), "SOLVER.WARMUP_ITERS", "1000").keys
    assert keys == {"SOLVER.MAX_ITER": "1000", "SOLVER.WARMUP_ITERS": "100"}
    assert "SOLVER.WARMUP_ITERS" not in advice(1500, 80, 5, (), "SOLVER.WARMUP_ITERS", "999").keys
