"""tools/convert_labels.py on small masks of each format, and on masks that it refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sar.data.label_files import read_label
from sar.files.program_outputs import JOURNAL

from ..programs import load_program

ROOT = Path(__file__).parents[2]
CLASSES = "gravel 0 0 0\nkerb #ff0000\nbollard 0 255 1\n"
COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 1]], np.uint8)


@pytest.fixture(scope="module")
def tool():
    return load_program(ROOT / "tools" / "convert_labels.py")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with a class file and without masks; the working directory is around it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/classes.txt").write_text(CLASSES)
    return tmp_path / "mine"


@pytest.fixture
def convert(tool, mine, capsys):
    """Convert mine/labels to mine_ids/labels: the exit code, what is printed, and the errors."""

    def convert(*words, classes="mine/classes.txt", output="mine_ids/labels"):
        args = ["--labels", "mine/labels", "--classes", classes, "--output", output, *words]
        return tool.main(args), *capsys.readouterr()

    return convert


def random_ids(num_classes=3, seed=0):
    return np.random.default_rng(seed).integers(0, num_classes, (13, 17))


def save(values, path, **options):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, **options)


def converted(name="a.png"):
    return read_label(Path("mine_ids/labels", name))


def contents(folder):
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def with_palette(ids, order=(2, 0, 1)):
    """An image with a palette in which the indices are not the ids."""
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[ids])
    image.putpalette(COLORS[list(order)].tobytes())
    return image


def test_masks_of_each_format_become_the_ids_that_they_were_drawn_from(convert, mine):
    ids = random_ids()
    rgb = COLORS[ids]
    save(rgb, "mine/labels/train/city/rgb.png")
    save(np.dstack([rgb, np.full_like(rgb[:, :, 0], 255)]), "mine/labels/train/rgba.png")
    save(with_palette(ids), "mine/labels/train/palette.png")
    save(rgb, "mine/labels/val/a.tif")
    save(rgb, "mine/labels/val/b.TIFF")
    save(rgb, "mine/labels/val/c.bmp")
    for hidden in (".hidden/a.png", "@eaDir/a.png", ".a.png"):
        save(rgb + np.uint8(1), mine / "labels" / hidden)
    (mine / "labels" / "notes.txt").write_text("mine")
    before = contents("mine")
    code, out, err = convert()
    assert (code, contents("mine")) == (0, before), err
    written = {path.relative_to("mine_ids/labels") for path in contents("mine_ids/labels")}
    names = "train/city/rgb train/rgba train/palette val/a val/b val/c".split()
    assert written == {Path(JOURNAL), *(Path(f"{name}.png") for name in names)}
    for name in names:
        assert converted(f"{name}.png").dtype == np.uint8
        np.testing.assert_array_equal(converted(f"{name}.png"), ids)
    assert out.endswith(f"6 labels in {Path('mine_ids/labels')}\n")
    rows = [re.split(r"  +", line.strip()) for line in out.splitlines()]
    pixels = 6 * np.bincount(ids.ravel())
    assert rows[0] == ["id", "class", "pixels", "files"]
    for i, name in enumerate(("gravel", "kerb", "bollard")):
        assert [str(i), name, str(pixels[i]), "6"] in rows
    assert ["255", "(ignored)", "0", "0"] in rows


def test_a_mask_is_turned_as_its_exif_orientation_says(convert):
    ids = random_ids()
    image = Image.fromarray(COLORS[ids])
    exif = image.getexif()
    exif[0x0112] = 6
    save(image, "mine/labels/a.png", exif=exif)
    assert convert()[0] == 0
    np.testing.assert_array_equal(converted(), np.rot90(ids, -1))


def test_transparent_pixels_and_given_colours_are_ignored(convert):
    ids = random_ids()
    rgba = np.dstack([COLORS[ids], np.full(ids.shape, 128, np.uint8)])
    rgba[0, :5] = 9, 9, 9, 0
    rgba[1, :5, 3] = 0
    rgba[2, :2], rgba[2, 2:5] = (1, 2, 3, 255), (250, 251, 252, 1)
    save(rgba, "mine/labels/a.png")
    image = with_palette(ids)
    image.info["transparency"] = 0
    save(image, "mine/labels/b.png")
    code, out, err = convert("--ignore", "1,2,3", "250,251,252")
    assert code == 0, err
    expected = ids.copy()
    expected[:3, :5] = 255
    np.testing.assert_array_equal(converted(), expected)
    np.testing.assert_array_equal(converted("b.png"), np.where(ids == 2, 255, ids))
    assert re.search(rf"255  \(ignored\) +{15 + (ids == 2).sum()} +2\n", out)


def test_more_than_255_classes_need_16_bits(convert, mine):
    colors = np.array([(i // 256, i % 256, 7) for i in range(300)], np.uint8)
    lines = [f"class_{i} {r} {g} {b}\n" for i, (r, g, b) in enumerate(colors)]
    (mine / "classes.txt").write_text("".join(lines))
    ids = np.arange(300).reshape(15, 20)
    save(np.hstack([colors[ids], np.full((15, 1, 3), 99, np.uint8)]), "mine/labels/a.png")
    assert convert("--ignore", "99,99,99")[0] == 0
    assert converted().dtype == np.uint16
    np.testing.assert_array_equal(converted(), np.hstack([ids, np.full((15, 1), 65535)]))


def test_labelmap_of_cvat(convert, mine):
    text = "# label:color_rgb:parts:actions\ngravel:0,0,0::\nkerb:255,0,0::\nbollard:0,255,1::\n"
    (mine / "labelmap.txt").write_text(text)
    ids = random_ids()
    save(COLORS[ids], "mine/labels/a.png")
    assert convert(classes="mine/labelmap.txt")[0] == 0
    np.testing.assert_array_equal(converted(), ids)


def test_a_mask_of_other_colours_is_an_error_and_the_others_are_converted(convert):
    rgb = COLORS[random_ids()]
    save(rgb, "mine/labels/a.png")
    rgb[0, :3], rgb[1, 0] = (250, 10, 0), (0, 9, 0)
    save(rgb, "mine/labels/b.png")
    save(
        np.arange(13 * 17 * 3, dtype=np.uint16).astype(np.uint8).reshape(rgb.shape),
        "mine/labels/c.png",
    )
    code, out, err = convert("--quiet")
    assert (code, out) == (1, "")
    assert (
        "labels/b.png has 4 pixels in colours without a class: (250, 10, 0) (3 pixels, nearest to "
        '"kerb" (255, 0, 0)), (0, 9, 0) (1 pixel, nearest to "gravel" (0, 0, 0)). '
    ) in err
    assert re.search(
        r"labels/c\.png has 221 pixels .* and \d+ more colours\. .*--ignore\.$", err, re.M
    )
    assert err.splitlines()[-1] == "2 of 3 masks not converted"
    assert {path.name for path in contents("mine_ids")} == {"a.png", JOURNAL}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_jpeg_is_refused_whatever_its_name(convert, suffix):
    save(COLORS[random_ids()], "mine/labels/a.png")
    save(COLORS[random_ids()], f"mine/labels/b{suffix}", format="JPEG")
    code, _, err = convert()
    assert code == 1
    assert re.search(rf"b\{suffix} is a JPEG file\. .* export the label again as PNG", err)
    assert converted().shape == (13, 17)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_ids_are_refused(convert, dtype):
    save(random_ids(2).astype(dtype), "mine/labels/a.png")
    code, _, err = convert()
    assert code == 1 and not Path("mine_ids/labels/a.png").exists()
    assert "a.png has one channel" in err and "copy the file" in err


def test_damaged_and_missing_masks(convert):
    code, _, err = convert()
    assert code == 1 and "Folder of masks not found: mine/labels" in err
    Path("mine/labels").mkdir()
    code, _, err = convert()
    assert code == 1 and "holds no masks" in err
    save(COLORS[random_ids()], "mine/labels/a.png")
    Path("mine/labels/b.png").write_bytes(b"rubbish")
    code, _, err = convert()
    assert code == 1 and "b.png cannot be read" in err and "1 of 2 masks not converted" in err
    assert converted().shape == (13, 17)
    save(COLORS[random_ids()], "mine/labels/a.tif")
    code, _, err = convert()
    assert code == 1 and "are two masks of the same name" in err


@pytest.mark.parametrize(
    "content, message",
    [
        ("gravel 0 0 0\nkerb\nbollard\n", "classes on the lines 2, 3 are without a colour"),
        ("\ngravel\nkerb 1 2 3\n", "the class on line 2 is without a colour"),
        ("gravel 0 0 0\n\nkerb 1 2 3\nbollard #000000\n", r'line 4: .*"bollard" .* of line 1:'),
        ("gravel 0 0 0\nkerb 1 2 300\n", "line 2: the colour"),
    ],
)
def test_class_files_that_are_not_clear(convert, mine, content, message):
    (mine / "classes.txt").write_text(content)
    save(COLORS[random_ids()], "mine/labels/a.png")
    code, _, err = convert()
    assert code == 1 and re.search(message, err), err
    assert not Path("mine_ids").exists()


def test_colours_to_ignore_that_are_not_clear(convert):
    save(COLORS[random_ids()], "mine/labels/a.png")
    code, _, err = convert("--ignore", "9,9,9", "255,0,0")
    assert code == 1 and re.search(r'\(255, 0, 0\) of --ignore .* class "kerb": remove it', err)
    for word in ("1,2", "1,2,256", "red", "-1,2,3", "1,2,3,4"):
        with pytest.raises(SystemExit) as exit:
            convert(f"--ignore={word}")
        assert exit.value.code == 2


def test_files_of_the_user_stay(convert):
    save(COLORS[random_ids()], "mine/labels/a.png")
    save(COLORS[random_ids()], "mine/labels/b.tif")
    before = contents("mine")
    for output in ("mine/labels", "mine/labels/ids"):
        code, _, err = convert("--overwrite", output=output)
        assert code == 1 and "lies in the data set" in err
        assert contents("mine") == before
    Path("mine_ids").symlink_to("mine")
    code, _, err = convert("--overwrite")
    assert code == 1 and contents("mine") == before
    Path("mine_ids").unlink()
    theirs = Path("mine_ids/labels/a.png")
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"the user's")
    code, _, err = convert()
    assert code == 1 and "add --overwrite" in err
    assert theirs.read_bytes() == b"the user's" and not Path("mine_ids/labels/b.png").exists()
    assert convert("--overwrite")[0] == 0
    # A second run replaces its own files, but not files that were changed.
    assert convert()[0] == 0
    save(random_ids().astype(np.uint8), theirs)
    assert convert()[0] == 1
    assert contents("mine") == before


@pytest.mark.slow
def test_a_killed_run_goes_on(mine):
    for i in range(60):
        save(
            np.kron(COLORS[random_ids(seed=i)], np.ones((40, 40, 1), np.uint8)),
            f"mine/labels/{i}.png",
        )
    command = [sys.executable, str(ROOT / "tools/convert_labels.py"), "--labels", "mine/labels"]
    command += ["--classes", "mine/classes.txt", "--output", "mine_ids/labels"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(Path("mine_ids").rglob("*.png")):
            pass
        process.kill()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list(Path("mine_ids/labels").glob("[0-9]*.png"))) == 60


def test_pixels_above_the_limit(convert, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    save(COLORS[random_ids()], "mine/labels/a.png")
    assert "more pixels" in convert("--max-pixels", "20")[2]
    assert convert("--max-pixels", "1000")[0] == 0


@pytest.mark.slow
def test_the_command_that_the_refusal_names_runs(mine):
    """The message about colour masks has the command with the folders of the data set."""
    for split in ("train", "val"):
        save(np.zeros((13, 17, 3), np.uint8), mine / "images" / split / "a.png")
        save(COLORS[random_ids()], mine / "labels" / split / "a.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects/SAR")}

    def run(command):
        options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}
        return subprocess.run(command, shell=True, timeout=120, **options)

    check = f"{sys.executable} tools/check_dataset.py --folder {mine} --output {mine}_checked"
    done = run(check)
    assert done.returncode == 1
    assert "label of colours (1):" in done.stdout
    command = re.search(r"run: python (tools/convert_labels\.py .*)", done.stdout)[1]
    done = run(f"{sys.executable} {command}")
    assert done.returncode == 0, done.stderr
    for split in ("train", "val"):
        np.testing.assert_array_equal(converted(f"{split}/a.png"), random_ids())
