"""A short training reduces the loss and finds the classes, also with SAR, CeCo and other losses."""

import pytest

from .runs import metrics, train


@pytest.mark.parametrize(
    "kind, loss",
    [
        pytest.param("baseline", "", marks=pytest.mark.slow),
        ("sar_ceco", ""),
        pytest.param("baseline", "focal + dice + lovasz", marks=pytest.mark.slow),
    ],
)
def test_a_short_training_finds_every_class(kind, loss, overrides, tmp_path):
    words = [
        "MODEL.LOSS.NAME", loss,
        "SOLVER.MAX_ITER", "100", "SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", "0.003",
        "SOLVER.CHECKPOINT_PERIOD", "100", "INPUT.COLOR_JITTER", "0.0",
        "SOLVER.IMS_PER_BATCH", "5",  # all images: with 2, two seeds of five missed the rare class
        "INPUT.MIN_SIZE_TRAIN", "(96, 97)", "INPUT.MIN_SIZE_TEST", "96",
        "INPUT.CROP.SIZE", "(64, 64)",
    ]  # fmt: skip
    trainer = train([*overrides, *words], config=f"configs/Folder/{kind}_sem_fpn_R_18.yaml")
    lines = [line for line in metrics(tmp_path / "output") if "total_loss" in line]
    for name in [name for name in lines[0] if name.startswith("loss_sem_seg")]:
        assert float(lines[-1][name]) < 0.7 * float(lines[0][name])
    # A model that predicts "ground" everywhere has 27 and 0. The lowest of 12 runs with other seeds
    # had 72 and 27.
    found = trainer._last_eval_results["sem_seg"]
    assert found["mIoU"] > 50 and found["mIoU@r"] > 10
    if kind == "sar_ceco":
        assert float(lines[-1]["loss_sar_anchor"]) < float(lines[0]["loss_sar_anchor"])
