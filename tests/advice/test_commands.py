"""The command of compare.py, with keys that compare.py takes."""

import shlex

import pytest

from sar.advice.commands import comparing_command, keys_of_data
from sar.config import load_config
from sar.study.comparison import INSTEAD, read_methods

CONFIG = "configs/Folder/baseline_sem_fpn_R_18.yaml"


def test_keys_that_a_comparison_sets_are_left_out():
    of_methods = {key for method in read_methods("configs/compare.yaml").values() for key in method}
    cfg = load_config(CONFIG)
    keys = {key: "1" for key in (*INSTEAD, *of_methods, "MODEL.DEVICE")}
    keys |= {"SOLVER.MAX_ITER": "700", "SOLVER.BASE_LR": str(cfg.SOLVER.BASE_LR)}
    command, lacking = comparing_command("my data", CONFIG, keys)
    program, *words = shlex.split(command.replace("\\\n", " "))
    assert words == [
        "tools/compare.py", "--folder", "my data", "--config-file", CONFIG,
        "--iterations", "700", "SOLVER.BASE_LR", str(cfg.SOLVER.BASE_LR),
    ]  # fmt: skip
    assert lacking == [*sorted(of_methods), "MODEL.DEVICE"]
    command, lacking = comparing_command("my data", CONFIG, {"MODEL.DEVICE": "cpu"})
    assert command.endswith("MODEL.DEVICE cpu") and lacking == []
    assert {"MODEL.LOSS.NAME", "DATALOADER.SAMPLER_TRAIN", "MODEL.REGULARIZERS"} <= of_methods


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("images/val", "labels/val"), {}),
        (("images/val",), {"DATASETS.TEST": "()"}),  # train_net.py refuses a validation split
        ((), {}),
    ],
)
def test_validation_images_without_labels_are_left_out(tmp_path, folders, expected):
    for folder in ("images/train", "labels/train", *folders):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").touch()
    folder = str(tmp_path)
    assert keys_of_data("folder_train", folder) == {"DATASETS.FOLDER": folder} | expected
