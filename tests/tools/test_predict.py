import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sar.config import load_config
from sar.data.image_files import read_image
from sar.data.label_files import read_label
from sar.data.video import Frame, VideoHeader, read_video, read_video_header
from sar.prediction.predictor import Prediction, Predictor

from ..programs import load_program

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
    module = load_program(PATH)
    colors = np.array([[1, 2, 3], [200, 100, 50]], np.uint8)
    predictor = Predictor(Brightness(), ["dark", "bright"], colors, num_threads=2)
    monkeypatch.setattr(module.Predictor, "load", lambda config, *overrides: predictor)
    monkeypatch.setattr(module, "load_config", lambda config, opts: load_config("", opts))
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
    files = (path for path in output.rglob("[!.]*") if path.is_file())
    return sorted(str(path.relative_to(output)) for path in files)


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


@pytest.mark.parametrize("size", [(6, 6600), (66_000, 4)])
def test_long_and_narrow_images(tool, photos, output, size, capsys):
    Image.new("L", size).save(photos / "long.png")
    assert run(tool, output, photos / "long.png", more=["--confidence"]) == 0
    assert f"1 prediction in {output}" in capsys.readouterr().out
    assert written(output) == ["confidence/long.png", "labels/long.png", "overlays/long.jpg"]
    assert read_label(output / "labels" / "long.png").shape == size[::-1]


def test_an_unreadable_image_is_told_and_the_rest_done(tool, photos, output, capsys):
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:100])
    (photos / "loop.png").symlink_to("loop.png")
    assert run(tool, output, photos, more=["--no-overlays"]) == 1
    errors = capsys.readouterr().err
    assert f"error: The image {photos / 'broken.png'} cannot be read" in errors
    assert str(photos / "loop.png") in errors
    assert "error: 2 of 5 images not predicted" in errors
    assert written(output) == ["labels/a.png", "labels/sub/a.png", "labels/sub/deep/b.png"]


def test_a_file_name_cannot_add_a_line(tool, photos, output, capsys):
    (photos / "x\nerror: forged.png").write_text("no image")
    assert run(tool, output, photos) == 1
    said = capsys.readouterr()
    assert "x\\nerror: forged.png cannot be read" in said.err
    assert "\nerror: forged" not in said.err + said.out


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


@pytest.mark.parametrize("more", [[], ["--confidence"]])
def test_results_may_go_next_to_the_folder_of_the_images(tool, photos, monkeypatch, more):
    monkeypatch.chdir(photos.parent)
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    for inputs in ("photos", "photos/**/*g", "photos/a.png"):
        for _ in range(2):
            assert run(tool, ".", inputs, more=more) == 0
    results = [name for name in written(Path(".")) if not name.startswith("photos/")]
    assert len(results) == 6 + 3 * len(more)
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before


def test_folders_behind_links_are_inputs_and_circles_are_not_walked(tool, photos, output, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    Image.open(photos / "a.png").save(tmp_path / "elsewhere" / "deep" / "c.png")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "sub" / "self").symlink_to(".")
    (photos / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "back").symlink_to(photos)
    assert run(tool, output, photos, more=["--no-overlays"]) == 0
    names = ["a", "linked/deep/c", "sub/a", "sub/deep/b"]
    assert written(output) == [f"labels/{name}.png" for name in names]


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir", "__MACOSX", "sub/.hidden"])
def test_folders_of_the_system_are_no_inputs(tool, photos, output, name):
    (photos / name).mkdir()
    (photos / name / "a.png").write_bytes(b"rubbish")
    for inputs in (photos, photos / "**" / "*.*g"):
        assert run(tool, output, inputs, more=["--no-overlays"]) == 0
    assert written(output) == ["labels/a.png", "labels/sub/a.png", "labels/sub/deep/b.png"]


def test_a_folder_that_cannot_be_read_is_named(tool, photos, output, monkeypatch, capsys):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(tool.os, "scandir", refuse)  # root may read everything
    assert run(tool, output, photos) == 1
    assert "photos cannot be read (Permission denied)" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_named_and_the_rest_is_done(
    tool, photos, output, capsys
):
    long = "n" * 250  # with .bmp a name of 254 bytes; the .jpg of the overlay is allowed, too
    Image.open(photos / "a.png").save(photos / f"{long}.bmp")
    Image.open(photos / "a.png").save(photos / f"{long}.png")  # so that both keep their suffix
    (output / "labels" / "sub").mkdir(parents=True)
    (output / "labels" / "sub" / "a.png.png").mkdir()
    assert run(tool, output, photos) == 1
    errors = capsys.readouterr().err
    assert f"error: {output}/labels/sub/a.png.png cannot be written" in errors
    assert f"error: {output}/labels/{long}.bmp.png cannot be written" in errors
    assert "error: 3 of 5 images not predicted or written" in errors
    names = ["labels/a.png.png", "labels/sub/deep/b.jpg.png"]
    names += ["overlays/a.png.jpg", "overlays/sub/deep/b.jpg.jpg"]
    assert written(output) == names


def test_a_full_disk_ends_it_with_one_message(tool, photos, output, capsys, monkeypatch):
    def refuse(picture, path, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", refuse)
    assert run(tool, output, photos, more=["--quiet"]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in message and "make room" in message


def test_files_that_the_program_did_not_write_stay(tool, photos, output, capsys, monkeypatch):
    for name in ("labels/a.png", "overlays/sub/a.jpg"):
        (output / name).parent.mkdir(parents=True)
        (output / name).write_text("the user's")
    with monkeypatch.context() as patch:
        patch.setattr(tool.Predictor, "load", lambda *words: pytest.fail("it began to work"))
        assert run(tool, output, photos) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert "2 of 6 files are already there" in message and "add --overwrite" in message
    assert f"{output}/labels/a.png, {output}/overlays/sub/a.jpg" in message
    assert (output / "labels" / "a.png").read_text() == "the user's"
    assert run(tool, output, photos, more=["--overwrite"]) == 0
    assert run(tool, output, photos) == 0
    # A label that the user has corrected.
    Image.open(photos / "a.png").save(output / "labels" / "a.png")
    assert run(tool, output, photos) == 1


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
@pytest.mark.parametrize("place", ["", "labels", "predicted", "../photos_of_mine"])
def test_nothing_is_written_into_the_data_set(
    tool, folder, photos, tmp_path, capsys, monkeypatch, place, more
):
    (folder / "images").rename(tmp_path / "photos_of_mine")
    (folder / "images").symlink_to(tmp_path / "photos_of_mine")
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    words = [*more, "DATASETS.FOLDER", str(folder)]
    assert run(tool, folder / place, photos / "a.png", more=words) == 1
    assert "lies in the data set" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()} == before


def test_frames_of_the_user_stay(tool, photos, output, write_clip, capsys):
    clip = write_clip(num_frames=2)
    (output / "labels" / "clip").mkdir(parents=True)
    (output / "labels" / "clip" / "000002.png").write_text("the user's")
    assert run(tool, output, clip) == 1
    assert "clip/000002.png. Choose another" in capsys.readouterr().err
    assert written(output) == ["labels/clip/000002.png"]


def test_a_video_whose_results_cannot_be_written_does_not_stop_the_next(
    tool, photos, output, write_clip, capsys
):
    clips = [write_clip("a.mkv", 2), write_clip("b.mkv", 2)]
    (output / "labels" / "a" / "000002.png").mkdir(parents=True)
    assert run(tool, output, *clips) == 1
    assert "a/000002.png cannot be written" in capsys.readouterr().err
    assert written(output) == ["labels/a/000001.png", *frame_names(2, "b"), "overlays/b.mp4"]


@pytest.mark.parametrize(
    "inputs, expected",
    [
        (["{output}"], "is also --output: choose another"),
        (["nowhere.png"], "--input nowhere.png not found"),
        (["nowhere/*.png"], "--input nowhere/*.png: no image found"),
        (["{photos}/a.png", "MODEL.WEIGHTS", "w.pth"], "KEY VALUE pairs come after another option"),
        (["{photos}/clip.MP4"], "run pip install opencv-python"),
        (["{photos}/empty"], "no image found (.png, "),
        (["{output}/labels/a.png"], "could be overwritten"),
        (["{output}/labels"], "labels is inside --output {output}, where results are written"),
        (["{output}/**/*.png"], "*.png is inside --output {output}, where results are written"),
    ],
)
def test_inputs_that_are_refused(tool, photos, output, capsys, monkeypatch, inputs, expected):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (photos / "clip.MP4").touch()
    (photos / "empty").mkdir()
    (output / "labels").mkdir(parents=True)
    (output / "labels" / "a.png").write_bytes((photos / "a.png").read_bytes())
    assert run(tool, output, *(word.format(photos=photos, output=output) for word in inputs)) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ") and expected.format(output=output) in message
    assert written(output) == ["labels/a.png"]


def test_an_output_that_cannot_be_written(tool, photos, output, capsys):
    output.write_text("a file")
    assert run(tool, output, photos, more=["--quiet"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_quiet(tool, photos, output, capsys):
    assert run(tool, output, photos, more=["--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def write_clip(photos):
    """Return a function that writes noise to a video, without loss by default."""
    cv2 = pytest.importorskip("cv2")

    def write(name="clip.mkv", num_frames=24, codec="FFV1", size=(250, 20)):
        generator = np.random.default_rng(0)
        code = cv2.VideoWriter_fourcc(*codec)
        writer = cv2.VideoWriter(str(photos / name), cv2.CAP_FFMPEG, code, 8, size)
        for _ in range(num_frames):
            writer.write(generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        writer.release()
        return photos / name

    return write


def frame_names(num_frames, name="clip", folder="labels"):
    return [f"{folder}/{name}/{number:06d}.png" for number in range(1, num_frames + 1)]


def test_a_video(tool, photos, output, write_clip, capsys):
    clip = write_clip()
    assert run(tool, output, photos / "a.png", clip, more=["--confidence"]) == 0
    assert written(output) == [
        "confidence/a.png", *frame_names(24, folder="confidence"),
        "labels/a.png", *frame_names(24),
        "overlays/a.jpg", "overlays/clip.mp4",
    ]  # fmt: skip
    frames = list(read_video(clip))
    predictor = tool.Predictor.load("C")
    for frame, labels in zip(frames, frame_names(24), strict=True):
        assert (read_label(output / labels) == predictor(frame.pixels).labels).all()
        assert (read_label(output / labels) == (frame.pixels[:, :, 0] > 127)).all()
    overlays = list(read_video(output / "overlays" / "clip.mp4"))
    assert len(overlays) == 24
    expected = predictor(frames[5].pixels).overlay(all_classes=True)
    pixels = overlays[5].pixels
    assert pixels.shape == (expected.height, expected.width, 3)
    # Of noise, colours are not kept pixel by pixel.
    grey = Image.fromarray(pixels).convert("L")
    difference = np.asarray(grey, float) - np.asarray(expected.convert("L"), float)
    assert np.abs(difference).mean() < 6
    header = read_video_header(output / "overlays" / "clip.mp4")
    assert (header.frame_rate, header.num_frames) == (8, 24)
    said = capsys.readouterr()
    assert f"25 predictions in {output}" in said.out and "24/24" in said.err


def test_a_shorter_video_leaves_no_frames_of_the_longer_one(tool, photos, output, write_clip):
    clip = write_clip(num_frames=6)
    assert run(tool, output, clip, more=["--confidence"]) == 0
    mine = output / "labels" / "clip" / "000009.png"
    mine.write_text("the user's")
    changed = output / "labels" / "clip" / "000006.png"
    changed.write_text("corrected by the user")
    write_clip(num_frames=4)
    assert run(tool, output, clip, more=["--confidence", "--overwrite"]) == 0
    assert written(output / "confidence") == [f"clip/{n:06d}.png" for n in range(1, 5)]
    assert written(output / "labels") == [f"clip/{n:06d}.png" for n in (1, 2, 3, 4, 6, 9)]
    assert (mine.read_text(), changed.read_text()) == ("the user's", "corrected by the user")


def test_results_of_another_model_do_not_stay_next_to_new_labels(tool, photos, output, write_clip):
    clip = write_clip(num_frames=3)
    assert run(tool, output, photos, clip, more=["--confidence"]) == 0
    mine = output / "overlays" / "sub" / "a.jpg"
    mine.write_text("drawn by the user")
    assert run(tool, output, photos / "a.png", clip) == 0
    assert not (output / "confidence" / "a.png").exists()
    # Names that were not predicted again keep everything.
    assert written(output / "confidence") == ["sub/a.png", "sub/deep/b.png"]
    assert run(tool, output, photos, clip, more=["--no-overlays"]) == 0
    assert written(output) == [
        "labels/a.png", *frame_names(3), "labels/sub/a.png",
        "labels/sub/deep/b.png", "overlays/sub/a.jpg",
    ]  # fmt: skip
    assert mine.read_text() == "drawn by the user"


def test_an_image_that_fails_keeps_its_earlier_results(tool, photos, output):
    assert run(tool, output, photos, more=["--confidence"]) == 0
    before = written(output)
    for path in photos.rglob("?.*"):
        path.write_bytes(b"broken")
    assert run(tool, output, photos, more=["--no-overlays"]) == 1
    assert written(output) == before


def test_a_killed_prediction_can_be_repeated(tool, photos, output, write_clip):
    clip = write_clip(num_frames=3)
    assert run(tool, output, clip) == 0
    left = output / "labels" / "clip" / ".sar-tmp-0123abcd.png"
    left.write_text("half")
    own = output / "labels" / "clip" / ".mine.png"
    own.write_text("the user's")
    assert run(tool, output, clip) == 0
    assert not left.exists() and own.exists()


def test_the_name_of_a_video_cannot_write_to_the_terminal(tool, photos, output, write_clip, capsys):
    clip = write_clip("my \x1b]0;title\x07.mkv", num_frames=2)
    assert run(tool, output, clip) == 0
    said = capsys.readouterr().err
    assert "my \\x1b]0;title\\x07: 100%" in said and "\x1b" not in said


def test_the_legend_of_a_video_is_of_all_classes(tool, photos, output, write_clip, monkeypatch):
    def read_video(path):
        for value in (0, 255):
            yield Frame(np.full((20, 240, 3), value, np.uint8), "")

    clip = write_clip()
    frames = tool.read_video
    monkeypatch.setattr(tool, "read_video", read_video)
    assert run(tool, output, clip) == 0
    firsts = [frame.pixels[36, 14] for frame in frames(output / "overlays" / "clip.mp4")]
    assert len(firsts) == 2 and np.max(firsts) < 50


def test_videos_of_a_folder_are_taken_by_a_pattern(tool, photos, output, write_clip):
    write_clip("sub/clip.mp4", 9, "mp4v", (32, 16))
    assert run(tool, output, photos, more=["--no-overlays"]) == 0
    assert len(written(output)) == 3
    more = ["--no-overlays", "--quiet"]
    assert run(tool, output / "more", str(photos / "**" / "*.mp4"), more=more) == 0
    assert written(output / "more") == frame_names(9)


def test_frames_and_what_lies_in_a_folder_of_their_name_are_kept_apart(
    tool, photos, output, write_clip
):
    clip = write_clip("sub.mkv", 2)
    assert run(tool, output, clip, photos / "sub" / "a.png", more=["--no-overlays"]) == 0
    assert written(output) == ["labels/sub.mkv/000001.png", "labels/sub.mkv/000002.png",
                               "labels/sub/a.png.png"]  # fmt: skip


def test_a_broken_video_is_done_up_to_there_and_so_is_the_rest(
    tool, photos, output, write_clip, capsys
):
    whole = write_clip("whole.mkv", 3)
    clip = write_clip()
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    (photos / "fake.mp4").write_text("no video")
    assert run(tool, output, photos / "fake.mp4", clip, whole) == 1
    errors = capsys.readouterr().err
    num_frames = len(list((output / "labels" / "clip").iterdir()))
    assert 8 < num_frames < 16
    assert f"Video {clip} ends after frame {num_frames}, at 1." in errors
    assert f"Video {photos / 'fake.mp4'} cannot be read" in errors
    assert "error: 2 of 3 files not predicted, or not to the end" in errors
    assert written(output) == [
        *frame_names(num_frames), *frame_names(3, "whole"),
        "overlays/clip.mp4", "overlays/whole.mp4",
    ]  # fmt: skip
    assert read_video_header(output / "overlays" / "clip.mp4").num_frames == num_frames


def test_a_frame_that_the_model_cannot_take_ends_its_video(
    tool, photos, output, write_clip, capsys, monkeypatch
):
    class Tiring(Brightness):
        calls = 0

        def forward(self, batch):
            self.calls += 1
            if self.calls == 4:
                raise RuntimeError("out of memory")
            return super().forward(batch)

    clip = write_clip()
    monkeypatch.setattr(tool.Predictor.load("C"), "model", Tiring())
    assert run(tool, output, clip, more=["--quiet"]) == 1
    assert f"{clip}, frame 4: the model cannot predict 250 x 20" in capsys.readouterr().err
    assert written(output) == [*frame_names(3), "overlays/clip.mp4"]


def test_memory_does_not_grow_with_the_length_of_a_video(tool, photos, output, monkeypatch):
    finalizers, alive = [], []
    overlay = Prediction.overlay

    def watched(item):
        finalizers.append(weakref.finalize(item, lambda: None))
        return item

    def read_video(path):
        for _ in range(120):
            yield Frame(watched(np.zeros((20, 30, 3), np.uint8)), "")
            alive.append(sum(finalizer.alive for finalizer in finalizers))

    monkeypatch.setattr(
        Prediction, "overlay", lambda *args, **more: watched(overlay(*args, **more))
    )
    monkeypatch.setattr(tool, "read_video", read_video)
    header = VideoHeader(8, 120)
    monkeypatch.setattr(tool, "read_video_header", lambda path: header)
    (photos / "clip.mp4").touch()
    assert run(tool, output, photos / "clip.mp4", more=["--quiet"]) == 0
    # Two threads that read, two that write, each with two frames; one that encodes two pictures;
    # and in each stage one more in hand.
    assert len(alive) == 120 and max(alive) <= 16
