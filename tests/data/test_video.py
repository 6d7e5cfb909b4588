import struct
import sys

import numpy as np
import pytest
from PIL import Image
from torch import nn

from sar.data.video import is_video, read_video, read_video_header, write_video
from sar.errors import InputError
from sar.prediction.predictor import Prediction, Predictor

cv2 = pytest.importorskip("cv2")


def write(path, pictures, frame_rate=29.97):
    for _ in write_video(path, frame_rate, pictures):
        pass


def corners(size=(64, 48)):
    """Return a picture in red, green, blue and white: two quarters above, two below."""
    small = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.NEAREST)


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "a.mp4", [corners()] * 12)
    header = read_video_header(tmp_path / "a.mp4")
    assert header.frame_rate == pytest.approx(29.97) and header.num_frames == 12
    frames = list(read_video(tmp_path / "a.mp4"))
    assert len(frames) == 12
    assert frames[3].name == f"{tmp_path / 'a.mp4'}, frame 4"
    for frame in frames:
        assert frame.pixels.dtype == np.uint8 and frame.pixels.shape == (48, 64, 3)
        assert np.abs(frame.pixels[8, 8] - [255, 0, 0.0]).max() < 8
        assert np.abs(frame.pixels[8, -8] - [0, 255.0, 0]).max() < 8


def test_pictures_of_odd_and_other_sizes(tmp_path):
    write(tmp_path / "a.mp4", [corners((63, 47)), corners((80, 30)), corners((10, 60))])
    frames = [frame.pixels for frame in read_video(tmp_path / "a.mp4")]
    assert [pixels.shape for pixels in frames] == [(48, 64, 3)] * 3
    assert (frames[0][-1] > 150).all()


def test_frames_are_turned_upright(tmp_path):
    path = tmp_path / "a.mp4"
    write(path, [corners()] * 2)
    data = path.read_bytes()
    # The display matrix in the header of the track: a quarter turn clockwise.
    start = data.index(b"tkhd") + 44
    turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:start] + turn + data[start + 36 :])
    blue, red, white, green = [0, 0, 1], [1, 0, 0], [1, 1, 1], [0, 1, 0]
    for frame in read_video(path):
        found = frame.pixels[[8, 8, -8, -8], [8, -8, 8, -8]] > 128
        assert found.tolist() == [blue, red, white, green]


def test_an_animated_gif_is_a_video(tmp_path):
    pictures = [corners().rotate(90 * i) for i in range(3)]
    path = tmp_path / "a.GIF"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    assert is_video(path) and not is_video("a.png")
    assert read_video_header(path).frame_rate == 10
    for frame, picture in zip(read_video(path), pictures, strict=True):
        assert np.abs(frame.pixels - np.asarray(picture).astype(int)).max() < 8


@pytest.mark.parametrize("frame_rate", [0.5, 0.9])
def test_a_slow_video_is_complete(tmp_path, frame_rate):
    write(tmp_path / "a.mp4", [corners()] * 6, frame_rate)
    assert len(list(read_video(tmp_path / "a.mp4"))) == 6


def test_a_gif_that_holds_its_last_picture_is_complete(tmp_path):
    pictures = [corners().rotate(90 * i) for i in range(3)]
    path = tmp_path / "a.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 100, 3000])
    assert len(list(read_video(path))) >= 3


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_damage_is_told_after_what_comes_before(tmp_path, damage):
    path = tmp_path / "a.avi"
    generator = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 8, (64, 48))
    for _ in range(40):
        writer.write(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    data = path.read_bytes()
    half = data[: len(data) // 2]
    path.write_bytes(half if damage == "cut off" else half + bytes(len(data) - len(half)))
    numbers = []
    with pytest.raises(InputError) as error:
        numbers += (frame.name for frame in read_video(path))
    assert 10 < len(numbers) < 30
    assert f"Video {path} ends after frame {len(numbers)}, at" in str(error.value)
    assert "of 5.0 seconds: it is cut off or damaged" in str(error.value)


def test_a_predictor_takes_a_video(tmp_path):
    class Red(nn.Module):
        def forward(self, batch):
            return [{"sem_seg": batch[0]["image"][[1, 0]].float()}]

    path = tmp_path / "a.mp4"
    write(path, [corners()] * 5)
    predictor = Predictor(Red(), ["other", "red"], np.zeros((2, 3), np.uint8), num_threads=2)
    results = list(predictor.predict_all(read_video(path)))
    assert len(results) == 5
    for result in results:
        assert isinstance(result, Prediction)
        assert result.labels[8, 8] == 1 and result.labels[8, -8] == 0

    path.write_text("no video")
    (result,) = predictor.predict_all(read_video(path))
    assert isinstance(result, InputError) and str(path) in str(result)


@pytest.mark.parametrize("name", ["missing.mp4", "empty.mp4", "text.mp4"])
def test_files_that_are_no_videos(tmp_path, name):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    for read in (read_video_header, lambda path: next(read_video(path))):
        with pytest.raises(InputError, match=f"Video .*{name} cannot be read"):
            read(tmp_path / name)


def test_nothing_is_left_of_a_video_that_was_not_finished(tmp_path):
    def pictures():
        yield corners()
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        list(write_video(tmp_path / "a.mp4", 8, pictures()))
    assert list(write_video(tmp_path / "a.mp4", 8, [])) == []
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "a.mp4", [corners()])


def test_a_video_that_lost_frames_on_its_way_to_the_disk_is_an_error(tmp_path, monkeypatch):
    class LosesFrames:
        def __init__(self, *args):
            self.writer = VideoWriter(*args)
            self.write, self.release = lambda picture: None, self.writer.release

    VideoWriter = cv2.VideoWriter
    monkeypatch.setattr(cv2, "VideoWriter", LosesFrames)
    with pytest.raises(InputError, match=r"a\.mp4 cannot be written: make room"):
        write(tmp_path / "a.mp4", [corners()] * 3)
    assert list(tmp_path.iterdir()) == []


def test_without_opencv_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    for call in (
        lambda: read_video_header("a.mp4"),
        lambda: next(read_video("a.mp4")),
        lambda: write(tmp_path / "a.mp4", [corners()]),
    ):
        with pytest.raises(InputError, match="pip install opencv-python"):
            call()
