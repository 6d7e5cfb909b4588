import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sar.config import load_config
from sar.modeling import inference
from sar.visualization import class_colors, side_by_side

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from ..programs import load_program

CONFIG = "configs/Folder/sar_sem_fpn_R_18.yaml"
SMALL = [
    "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
    "MODEL.FPN.NORM", "BN", "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN",
]  # fmt: skip


@pytest.fixture
def tool():
    return load_program(Path(__file__).parents[2] / "tools" / "visualize.py")


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of three classes, with the training branch in it."""
    model = build_model(load_config(CONFIG, SMALL))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


@pytest.fixture
def draw(tool, weights, tmp_path):
    """Return a function that draws the pictures of a data set into tmp_path / "pictures"."""

    def draw(*overrides, more=()):
        words = ["--config-file", CONFIG, "--output", str(tmp_path / "pictures"), *more, *SMALL]
        return tool.main([*words, "MODEL.WEIGHTS", weights, *overrides])

    return draw


def test_a_test_set_without_ground_truth(draw, folder, tmp_path):
    files = sorted(map(str, (folder / "images" / "val").iterdir()))[:2]
    DatasetCatalog.register("folder_unlabelled", lambda: [{"file_name": file} for file in files])
    metadata = MetadataCatalog.get("folder_unlabelled")
    metadata.set(stuff_classes=["a", "b", "c"], ignore_label=255, evaluator_type="sem_seg")
    assert draw("DATASETS.TEST", "('folder_unlabelled',)") == 0
    picture = Image.open(tmp_path / "pictures" / "0.png")
    image, labels = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)
    colors = class_colors(metadata)
    assert picture.width == side_by_side(image, None, labels, "abc", colors).width


def test_one_picture_is_written_without_waiting_for_the_disk(draw, folder, capsys, monkeypatch):
    monkeypatch.setattr(os, "fsync", None)  # fails if it is called
    assert draw("DATASETS.FOLDER", str(folder), more=["--images", "1"]) == 0
    assert capsys.readouterr().out.startswith("1 picture in ")


def test_an_image_that_the_model_cannot_take_is_named(draw, folder, capsys, monkeypatch):
    def fail(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    monkeypatch.setattr(inference.SemanticSegmentor, "forward", fail)
    assert draw("DATASETS.FOLDER", str(folder)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "val/0.png: the model cannot predict it: CUDA out of memory" in error
    assert error.endswith("GiB. If memory is too small, set TEST.MODE slide, or cut it into parts")


def test_the_training_branch_is_not_needed(draw, folder, weights, caplog, tmp_path):
    state = torch.load(weights)["model"]
    state = {name: value for name, value in state.items() if not name.startswith("regularizers.")}
    torch.save({"model": state}, weights)
    both = "('SemanticAnchorRegularizer', 'CenterCollapseRegularizer')"
    words = ["MODEL.REGULARIZERS", both, "MODEL.SEMANTIC_ANCHOR.ANCHORS", "/nowhere/anchors.npy"]
    words += ["MODEL.LOSS.NAME", "seesaw", "MODEL.AUXILIARY_HEAD.IN_FEATURE", "p4"]
    assert draw("DATASETS.FOLDER", str(folder), *words) == 0
    assert caplog.text == ""
    assert (tmp_path / "pictures" / "4.png").is_file()


@pytest.mark.slow
def test_draws_every_image_of_the_test_set(folder, overrides, tmp_path):
    renamed = folder.rename(folder.with_name("my \x1b]0;title\x07"))
    overrides[overrides.index(str(folder))] = str(renamed)
    folder = renamed
    settings = ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]
    norms = [f"MODEL.{part}.NORM" for part in ("RESNETS", "FPN", "SEM_SEG_HEAD")]
    settings += [word for key in norms for word in (key, "BN")]
    model = build_model(load_config(CONFIG, [*overrides, *settings]))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")

    command = [sys.executable, "tools/visualize.py", "--config-file", CONFIG, "--output"]
    command += [str(tmp_path / "pictures"), *overrides, "MODEL.WEIGHTS"]
    done = subprocess.run(
        [*command, str(tmp_path / "weights.pth")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Drawing folder_my \\x1b]0;title\\x07_val: 100%" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    names = sorted(file.name for file in (tmp_path / "pictures").glob("[!.]*"))
    assert names == [f"{index}.png" for index in range(5)]
    picture = np.asarray(Image.open(tmp_path / "pictures" / "0.png"))
    image = np.asarray(Image.open(folder / "images" / "val" / "0.png"))
    enlarged = image.repeat(4, 0).repeat(4, 1)  # 64 pixels wide, to at least 240
    assert (picture[30 : 30 + 48 * 4, 8 : 8 + 64 * 4] == enlarged).all()

    # The colours of the checkpoint, whatever colours classes.txt has now.
    names = [line.split()[0] for line in (folder / "classes.txt").read_text().splitlines()]
    colors = [(10, 20, 30), (40, 50, 60), (70, 80, 90)]
    classes = {"names": names, "colors": colors}
    torch.save({"model": model.state_dict(), "classes": classes}, tmp_path / "colored.pth")
    words = [*command, str(tmp_path / "colored.pth")]
    words[words.index("--output") + 1] = str(tmp_path / "colored")
    subprocess.run(words, check=True, timeout=120)
    picture = np.asarray(Image.open(tmp_path / "colored" / "0.png"))
    for color in colors:
        assert (picture == color).all(-1).any()

    def error(*words):
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        return done.stderr.strip().splitlines()[-1]

    assert error("nowhere.pth").startswith("error: checkpoint nowhere.pth")
    # One picture cannot be written; the others are.
    for path in (tmp_path / "pictures").glob("[!.]*"):
        path.unlink()
    (tmp_path / "pictures" / "0.png").mkdir()
    assert error(str(tmp_path / "weights.pth")) == "1 of 5 pictures not written"
    assert len(list((tmp_path / "pictures").glob("[1-4].png"))) == 4
    # Pictures of the user.
    (tmp_path / "pictures" / "1.png").write_text("the user's")
    assert "add --overwrite" in error(str(tmp_path / "weights.pth"))
    assert (tmp_path / "pictures" / "1.png").read_text() == "the user's"
    command[command.index("--output") + 1] = str(folder / "pictures")
    assert "lies in the data set" in error(str(tmp_path / "weights.pth"))
    command[command.index("--output") + 1] = str(tmp_path / "weights.pth")
    assert "cannot be written" in error(str(tmp_path / "weights.pth"))
    command[command.index("--output") + 1] = str(tmp_path / "others")
    (folder / "images" / "val" / "0.png").write_bytes(b"rubbish")
    assert error(str(tmp_path / "weights.pth")).startswith("error: The image")
