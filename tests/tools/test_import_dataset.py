"""tools/import_dataset.py on the command line; tests/data/importers/ has the formats."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sar import cli
from sar.data.label_files import read_label

from ..programs import load_program

ROOT = Path(__file__).parents[2]
CLASSES = "gravel 0 0 0\nkerb #ff0000\nbollard 0 255 1\n"
COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 1]], np.uint8)


@pytest.fixture(scope="module")
def tool():
    return load_program(ROOT / "tools" / "import_dataset.py")


@pytest.fixture
def masks(tmp_path, monkeypatch):
    """Return a function that writes images, colour masks and classes.txt to ./masks."""
    monkeypatch.chdir(tmp_path)

    def write(number=4, side=12):
        for i in range(number):
            ids = random_ids(i, side)
            for split in ("train", "val"):
                save(np.zeros((side, side, 3), np.uint8), f"masks/images/{split}/{i}.png")
                save(COLORS[ids], f"masks/labels/{split}/{i}.png")
        Path("masks/classes.txt").write_text(CLASSES)

    return write


def random_ids(seed, side):
    return np.random.default_rng(seed).integers(0, 3, (side, side))


def save(values, path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_options_reach_the_importer(tool, masks, capsys):
    masks()
    words = "--split 1:1 --map kerb=edge --map bollard=edge --ignore gravel --link --seed 3".split()
    assert tool.main(["masks", "--output", "mine", *words]) == 0
    out, err = capsys.readouterr()
    assert "8 images were divided 1:1, with each class in each split." in out
    assert out.endswith("Wrote mine. Next: python tools/check_dataset.py --folder mine\n")
    assert "Reading" in err and "Writing" in err
    assert Path("mine/classes.txt").read_text() == "edge 255 0 0\n"
    labels = sorted(Path("mine/labels").rglob("*.png"))
    assert len(labels) == 8
    for path in labels:
        assert set(np.unique(read_label(path)).tolist()) == {0, 255}
    assert all(path.is_symlink() for path in Path("mine/images").rglob("*.png"))


def test_the_next_command_can_be_pasted(tool, masks, capsys, monkeypatch):
    masks()
    assert tool.main(["masks", "--output", "my $set"]) == 0
    assert capsys.readouterr().out.endswith(
        "Wrote my $set. Next: python tools/check_dataset.py --folder 'my $set'\n"
    )
    monkeypatch.setattr(cli, "command", "sar-import-dataset")
    assert tool.main(["masks", "--output", "mine"]) == 0
    assert capsys.readouterr().out.endswith("Next: sar-check-dataset --folder mine\n")


def test_quiet_and_dry_run(tool, masks, capsys):
    masks()
    assert tool.main(["masks", "--output", "mine", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("Nothing was written (--dry-run).\n")
    assert not Path("mine").exists()
    assert tool.main(["masks", "--output", "mine", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_folders_of_any_name(tool, masks, capsys):
    masks()
    Path("masks/images/train").rename("masks/fotos")
    Path("masks/labels/train").rename("masks/gold")
    words = ["--images", "masks/fotos", "--labels", "masks/gold", "--split", "1"]
    assert tool.main(["masks", "--output", "mine", *words]) == 0, capsys.readouterr().err
    for i in range(4):
        np.testing.assert_array_equal(read_label(f"mine/labels/train/{i}.png"), random_ids(i, 12))


@pytest.mark.parametrize(
    "words, message",
    [
        (["--split", "80:0"], "expected one to three positive numbers"),
        (["--split", "1:1:1:1"], "expected one to three positive numbers"),
        (["--map", "kerb"], "expected OLD=NEW"),
        (["--map", "kerb="], "expected OLD=NEW"),
        (["--group", "("], "is not a regular expression"),
        (["--background", "none"], "invalid choice"),
        (["--seed", "-1"], "expected a whole number"),
    ],
)
def test_wrong_options(tool, words, message, capsys):
    with pytest.raises(SystemExit) as exit:
        tool.main(["x", "--output", "y", *words])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_pixels_above_the_limit(tool, masks, capsys, monkeypatch):
    masks(1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert tool.main(["masks", "--output", "mine", "--max-pixels", "20"]) == 1
    assert "more pixels" in capsys.readouterr().err and not Path("mine").exists()
    assert tool.main(["masks", "--output", "mine", "--max-pixels", "1000"]) == 0


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT / "projects/SAR")}


@pytest.mark.slow
def test_a_killed_run_goes_on(masks):
    masks(60, side=200)
    command = [sys.executable, str(ROOT / "tools/import_dataset.py"), "masks", "--output", "mine"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment()) as process:
        while process.poll() is None and not list(Path("mine").rglob("*.png")):
            pass
        process.kill()
    assert not Path("mine/classes.txt").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode == 0, done.stderr
    for i in range(60):
        np.testing.assert_array_equal(read_label(f"mine/labels/val/{i}.png"), random_ids(i, 200))
    assert not list(Path("mine").rglob(".sar-tmp*"))


@pytest.mark.slow
def test_the_command_that_the_refusal_names_runs(masks, tmp_path):
    """The message about colour masks has the command with the folder of the data set."""
    masks()
    run = {"cwd": ROOT, "env": environment(), "capture_output": True, "text": True, "shell": True}
    folder = tmp_path / "masks"
    check = f"{sys.executable} tools/check_dataset.py --folder {folder} --output {folder}_checked"
    done = subprocess.run(check, timeout=120, **run)
    assert done.returncode == 1
    assert done.stdout.count("label of colours (4):") == 2
    command = re.search(r"run: python (tools/import_dataset\.py .*)", done.stdout)[1]
    done = subprocess.run(f"{sys.executable} {command}", timeout=120, **run)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read_label(f"{folder}_ids/labels/val/1.png"), random_ids(1, 12))
    check = check.replace(f"--folder {folder}", f"--folder {folder}_ids")
    assert "label of colours" not in subprocess.run(check, timeout=120, **run).stdout
