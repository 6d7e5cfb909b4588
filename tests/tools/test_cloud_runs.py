"""Programs that look at runs on point clouds: report, rare_classes and visualize."""

import base64
import io
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from sar.report import compare, find_runs
from sar.report.views import CLOUD_SIZE
from sar.training.pictures import Pictures
from sar.training.trainer import Trainer

from detectron2.utils.events import EventStorage

from ..clouds import CONFIG, SMALL
from ..programs import load_program
from ..runs import prepared, train

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def run(cloud_folder, tmp_path):
    """The folder of a training."""
    words = ["DATASETS.FOLDER", str(cloud_folder), "OUTPUT_DIR", str(tmp_path / "run")]
    train([*SMALL, *words], config=CONFIG)
    return tmp_path / "run"


def test_programs_show_runs_on_clouds(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)  # without t-SNE, which is slow
    other = shutil.copytree(run, tmp_path / "other")
    path = other / "model_final.pth"
    state = torch.load(path)
    for part in ("weight", "bias"):  # predicts the least likely class
        state["model"][f"sem_seg_head.predictor.{part}"] *= -1
    torch.save(state, path)
    (other / "model_best.pth").unlink(missing_ok=True)

    content = compare(find_runs([f"plain={run}", f"worst={other}"]), num_images=2)
    assert content["units"] == {"sample": "cloud", "part": "point"}
    assert content["views"][0]["reasons"].keys() == {"anchors"}
    assert content["views"][0]["projections"][0]["points"]
    pictures = content["pictures"]
    assert pictures["names"] == ["ground truth", "plain", "worst"] and pictures["num_images"] == 2
    first = pictures["images"][0]
    assert first["share"] == 100 and first["name"].endswith(".npz")
    for uri in (first["image"], *first["maps"]):
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
            assert picture.size[1] % CLOUD_SIZE[0] == picture.size[0] % CLOUD_SIZE[1] == 0

    rare = load_program(TOOLS / "rare_classes.py")
    words = [f"plain={run}", f"worst={other}", "--classes", "2", "--output"]
    assert rare.main([*words, str(tmp_path / "rare.png")]) == 0
    assert "The 2 rarest classes of folder_scans_val" in capsys.readouterr().out

    visualize = load_program(TOOLS / "visualize.py")
    weights = ["MODEL.WEIGHTS", str(other / "model_final.pth"), "MODEL.DEVICE", "cpu"]
    words = ["--config-file", str(run / "config.yaml"), "--output", str(tmp_path / "drawn")]
    assert visualize.main([*words, "--images", "1", *weights]) == 0
    with Image.open(tmp_path / "drawn" / "0.png") as picture:
        assert picture.width == 4 * (440 + 2 * 8)  # cloud, ground truth, prediction, errors


def test_tensorboard_shows_clouds(cloud_folder, tmp_path):
    words = ["DATASETS.FOLDER", str(cloud_folder), "OUTPUT_DIR", str(tmp_path / "run")]
    cfg = prepared([*SMALL, "TEST.PICTURES", "1", *words], config_file=CONFIG)
    with EventStorage(0) as storage:
        Pictures(cfg, Trainer.build_test_mapper).put(Trainer.build_model(cfg), storage)
    shown = {name: picture for name, picture, _ in storage._vis_data}
    assert len([name for name in shown if name.startswith("predictions/")]) == 1
    assert shown["predictions/0.npz"].shape[2] == 4 * (440 + 2 * 8)
