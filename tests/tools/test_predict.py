import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sar.data.labels import read_image, read_label
from sar.engine.predictor import Predictor

PATH = Path(__file__).parents[2] / "tools" / "predict.py"


class Brightness(nn.Module):
    """Class 1 where red is above one half."""

    def forward(self, batch):
        (sample,) = batch
        red = sample["image"][0].float() / 255
        return [{"sem_seg": torch.stack([1 - red, red])}]


@pytest.fixture
def tool(monkeypatch):
    """The program, whose config and weights are those of a model that can be told by eye."""
    spec = importlib.util.spec_from_file_location("predict", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    colors = np.array([[1, 2, 3], [200, 100, 50]], np.uint8)
    predictor = Predictor(Brightness(), ["dark", "bright"], colors, num_threads=2)
    monkeypatch.setattr(module.Predictor, "load", lambda config, *overrides: predictor)
    return module


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a.png", "sub/a.png", "sub/deep/b.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "._a.png").write_text("of macOS")
    return tmp_path / "photos"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


def run(tool, output, *inputs, more=()):
    words = ["--config-file", "C", "--input", *map(str, inputs), "--output", str(output), *more]
    return tool.main(words)


def written(output):
    return sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.is_file())


def test_a_folder_of_images(tool, photos, output, capsys):
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    assert run(tool, output, photos, more=["--confidence"]) == 0
    assert written(output) == [
        "confidence/a.png", "confidence/sub/a.png", "confidence/sub/deep/b.png",
        "labels/a.png", "labels/sub/a.png", "labels/sub/deep/b.png",
        "overlays/a.jpg", "overlays/sub/a.jpg", "overlays/sub/deep/b.jpg",
    ]  # fmt: skip
    for name in ("a.png", "sub/a.png", "sub/deep/b.jpg"):
        red = read_image(photos / name)[:, :, 0] / 255
        labels = output / "labels" / Path(name).with_suffix(".png")
        assert (read_label(labels) == (red > 0.5)).all()
        confidence = np.asarray(Image.open(output / "confidence" / Path(name).with_suffix(".png")))
        expected = 1 / (1 + np.exp(-np.abs(2 * red - 1)))
        assert np.abs(confidence / 255 - expected).max() <= 0.5 / 255 + 1e-6
    colors = set(map(tuple, np.asarray(Image.open(labels).convert("RGB")).reshape(-1, 3).tolist()))
    assert colors == {(1, 2, 3), (200, 100, 50)}
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before
    assert f"3 predictions in {output}" in capsys.readouterr().out


def test_an_unreadable_image_is_told_and_the_rest_done(tool, photos, output, capsys):
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:100])
    (photos / "loop.png").symlink_to("loop.png")
    assert run(tool, output, photos, more=["--no-overlays"]) == 1
    errors = capsys.readouterr().err
    assert f"error: The image {photos / 'broken.png'} cannot be read" in errors
    assert str(photos / "loop.png") in errors
    assert "error: 2 of 5 images not predicted" in errors
    assert written(output) == ["labels/a.png", "labels/sub/a.png", "labels/sub/deep/b.png"]


def test_files_and_patterns_each_once(tool, photos, output):
    Image.open(photos / "a.png").save(photos / "a.jpg")
    inputs = [photos / "a.png", str(photos / "**" / "*.png"), photos / "a.jpg"]
    assert run(tool, output, *inputs, more=["--no-overlays"]) == 0
    # Two names differ in their suffix alone.
    assert written(output) == ["labels/a.jpg.png", "labels/a.png.png", "labels/sub/a.png.png"]


def test_its_own_pictures_are_no_inputs(tool, photos):
    for _ in range(2):
        assert run(tool, photos / "predicted", photos) == 0
        assert len(written(photos / "predicted")) == 6


@pytest.mark.parametrize(
    "inputs, expected",
    [
        (["nowhere.png"], "--input nowhere.png is not there"),
        (["nowhere/*.png"], "--input nowhere/*.png: no image there"),
        (["{photos}/a.png", "MODEL.WEIGHTS", "w.pth"], "KEY VALUE pairs come after another option"),
        (["{photos}/clip.MP4"], "is a video"),
        (["{photos}/empty"], "no image there (.png, "),
        (["{output}/labels/a.png"], "could be overwritten"),
    ],
)
def test_inputs_that_are_refused(tool, photos, output, capsys, inputs, expected):
    (photos / "clip.MP4").touch()
    (photos / "empty").mkdir()
    (output / "labels").mkdir(parents=True)
    (output / "labels" / "a.png").write_bytes((photos / "a.png").read_bytes())
    assert run(tool, output, *(word.format(photos=photos, output=output) for word in inputs)) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ") and expected in message
    assert written(output) == ["labels/a.png"]


def test_an_output_that_cannot_be_written(tool, photos, output, capsys):
    output.write_text("a file")
    assert run(tool, output, photos, more=["--quiet"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_quiet(tool, photos, output, capsys):
    assert run(tool, output, photos, more=["--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
