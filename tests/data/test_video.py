import struct
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from torch import nn

from sar.data.video import (
    VideoHeader,
    import_av,
    is_video,
    read_video,
    read_video_header,
    write_video,
)
from sar.errors import InputError
from sar.prediction.predictor import Prediction, Predictor

HEADER = VideoHeader(Fraction(30000, 1001), Fraction(1, 30000), None)
STEP = 1001


@pytest.fixture
def av():
    return pytest.importorskip("av")


def write(path, pictures, time_stamps=None, header=HEADER):
    time_stamps = time_stamps or [i * STEP for i in range(len(pictures))]
    for _ in write_video(path, header, zip(pictures, time_stamps, strict=True)):
        pass


def corners(size=(64, 48)):
    """Red, green, blue and white: upper left, upper right, lower left, lower right."""
    small = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.NEAREST)


# Which of red, green and blue there are.
RED, GREEN, BLUE, WHITE = [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]


def test_what_is_written_is_read(av, tmp_path):
    write(tmp_path / "a.mp4", [corners()] * 12)
    header = read_video_header(tmp_path / "a.mp4")
    assert (header.frame_rate, header.num_frames) == (HEADER.frame_rate, 12)
    frames = list(read_video(tmp_path / "a.mp4"))
    assert [frame.time_stamp for frame in frames] == [i * STEP for i in range(12)]
    assert frames[3].name == f"{tmp_path / 'a.mp4'}, frame 4"
    for frame in frames:
        assert frame.pixels.dtype == np.uint8 and frame.pixels.shape == (48, 64, 3)
        assert np.abs(frame.pixels[8, 8] - [255, 0, 0.0]).max() < 8
        assert np.abs(frame.pixels[8, -8] - [0, 255.0, 0]).max() < 8
    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        # 1 is BT.709, which players would not guess of a video as small as this.
        assert (codec.name, codec.pix_fmt, codec.colorspace) == ("h264", "yuv420p", 1)


def test_times_of_a_varying_frame_rate_are_kept(av, tmp_path):
    stamps = [0, 1001, 4567, 6006, 20020]
    write(tmp_path / "a.mp4", [corners()] * 5, stamps)
    assert [frame.time_stamp for frame in read_video(tmp_path / "a.mp4")] == stamps


def test_a_title_may_be_of_any_encoding(av, tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        container.metadata["title"] = "Cafe Royal"
        stream = container.add_stream("libx264", 8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_image(corners())))
        container.mux(stream.encode())
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data.replace(b"Cafe Royal", b"Caf\xe9 Royal"))
    assert b"Cafe Royal" in data and len(list(read_video(tmp_path / "a.mp4"))) == 1


def test_pictures_of_odd_and_other_sizes(av, tmp_path):
    pictures = [corners((63, 47)), corners((80, 30)), corners((10, 60))]
    write(tmp_path / "a.mp4", pictures)
    frames = [frame.pixels for frame in read_video(tmp_path / "a.mp4")]
    assert [pixels.shape for pixels in frames] == [(48, 64, 3)] * 3
    assert (frames[0][-1] > 150).all()


@pytest.mark.parametrize(
    "matrix, expected",
    [
        # The display matrix: (a, b), (c, d) of the frame's x and y.
        ((1, 0, 0, 1), [RED, GREEN, BLUE, WHITE]),
        ((0, 1, -1, 0), [BLUE, RED, WHITE, GREEN]),  # a quarter clockwise
        ((-1, 0, 0, -1), [WHITE, BLUE, GREEN, RED]),
        ((0, -1, 1, 0), [GREEN, WHITE, RED, BLUE]),
    ],
)
def test_frames_are_turned_upright(av, tmp_path, matrix, expected):
    path = tmp_path / "a.mp4"
    write(path, [corners()] * 2)
    data = path.read_bytes()
    # In the track's header, after 40 bytes of other fields.
    start = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    path.write_bytes(
        data[:start] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[start + 36 :]
    )
    for frame in read_video(path):
        assert (frame.pixels[[8, 8, -8, -8], [8, -8, 8, -8]] > 128).tolist() == expected


def test_an_animated_gif_is_a_video(av, tmp_path):
    pictures = [corners().rotate(90 * i) for i in range(3)]
    path = tmp_path / "a.GIF"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    assert is_video(path) and not is_video("a.png")
    assert [frame.time_stamp for frame in read_video(path)] == [0, 10, 20]
    for frame, picture in zip(read_video(path), pictures, strict=True):
        assert np.abs(frame.pixels - np.asarray(picture).astype(int)).max() < 8


def test_damage_is_told_after_what_comes_before(av, tmp_path):
    path = tmp_path / "a.mp4"
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    write(path, [Image.fromarray(pixels) for pixels in noise])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 5000] = bytes(5000)
    path.write_bytes(data)
    numbers = []
    with pytest.raises(InputError) as error:
        numbers += (frame.name for frame in read_video(path))
    assert 10 < len(numbers) < 30
    assert f"Video {path} is damaged at frame {len(numbers) + 1} (" in str(error.value)


def test_a_predictor_takes_a_video(av, tmp_path):
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


@pytest.mark.parametrize("name", ["missing.mp4", "empty.mp4", "text.mp4", "sound.mp4"])
def test_files_that_are_no_videos(av, tmp_path, name):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", 44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for read in (read_video_header, lambda path: next(read_video(path))):
        with pytest.raises(InputError, match=f"Video .*{name} (cannot be read|holds no pictures)"):
            read(tmp_path / name)


def test_nothing_is_left_of_a_video_that_was_not_finished(av, tmp_path):
    def pictures():
        yield corners(), 0
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        list(write_video(tmp_path / "a.mp4", HEADER, pictures()))
    assert list(write_video(tmp_path / "a.mp4", HEADER, [])) == []
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "a.mp4", [corners()])


def test_without_pyav_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (import_av, lambda: read_video_header("a"), lambda: next(read_video("a"))):
        with pytest.raises(InputError, match=r"pip install -e \.\[video\]"):
            call()
