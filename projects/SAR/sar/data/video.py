"""Videos, through PyAV (FFmpeg): frames as they are read, and pictures to an mp4.

Shape shorthands: H, W: height and width in pixels, upright.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, count, takewhile
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from sar.errors import InputError
from sar.files.atomic import atomic_path
from sar.threads import map_ahead

_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif")
# Of the time that a file says it lasts, what may be missing at its end: such numbers are rounded.
_MISSING_SECONDS = 1
_ENCODING = {"preset": "veryfast", "crf": "20"}
# As FFmpeg numbers them.
_BT709, _LIMITED_RANGE = 1, 1


@dataclass(frozen=True)
class VideoHeader:
    """What is known of a video before it is decoded.

    Attributes:
        frame_rate: frames a second; the mean where it varies.
        time_base: seconds; the unit of time stamps.
        num_frames: None where the file does not tell.
    """

    frame_rate: Fraction
    time_base: Fraction
    num_frames: int | None


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture of a video.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        time_stamp: when it is shown, in the header's time base; 0 for the first.
        name: file and number, for errors.
    """

    pixels: np.ndarray
    time_stamp: int
    name: str


def is_video(path: str | os.PathLike) -> bool:
    """Whether a file is one by its name."""
    return os.fspath(path).lower().endswith(_SUFFIXES)


def import_av() -> ModuleType:
    """PyAV, which only videos need.

    Raises:
        InputError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise InputError(
            "videos need PyAV: run pip install -e .[video] in the folder of this project"
        ) from error
    return av


def read_video_header(path: str | os.PathLike) -> VideoHeader:
    """Raises InputError where PyAV or the file is missing, or it is no video."""
    with _opened(path) as (_, stream):
        return _header(stream)


def read_video(path: str | os.PathLike) -> Iterator[Frame]:
    """A video's frames, upright as its metadata says; decoded in a thread, two ahead.

    Of frames that are damaged, those that FFmpeg conceals or passes over, as players do, raise
    nothing.

    Raises:
        InputError: PyAV or the file is missing, or it is no video; or, after the frames before
            that, it is damaged or cut off.
    """
    frames = _decode(path)
    ahead = map_ahead(lambda _: next(frames, None), count(), 1)
    return takewhile(lambda frame: frame is not None, ahead)


def write_video(
    path: str | os.PathLike,
    header: VideoHeader,
    pictures: Iterable[tuple[Image.Image, int]],
    *,
    writing: Callable[[str | os.PathLike], AbstractContextManager[Path]] = atomic_path,
) -> Iterator[None]:
    """Writes RGB pictures with their time stamps to an mp4 (H.264, yuv420p).

    They are encoded in a thread, two behind; the iterator is to be used up. The file has its name
    once it is finished; without a picture there is none. An odd width or height, which the codec
    does not take, gets a white line more.

    Args:
        header: of the video whose time stamps these are.
        pictures: all of the size of the first, or cut to it.
        writing: yields a temporary path for `path`, as `Outputs.writing` does.

    Raises:
        InputError: PyAV is missing, or the file cannot be written.
    """
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is not None:
        with _encoder(path, header, first[0].size, writing) as encode:
            yield from map_ahead(encode, chain([first], pictures), 1)


def _decode(path: str | os.PathLike) -> Iterator[Frame]:
    av = import_av()
    number, first, last, end = 0, None, -1, 0
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        time_base = stream.time_base
        step = max(1, round(1 / (_header(stream).frame_rate * time_base)))
        try:
            # Sound, too, is read: it may go on when the pictures have ended.
            for packet in container.demux():
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is not None:
                    end = max(end, (stamp + (packet.duration or 0)) * packet.time_base)
                if packet.stream.index != stream.index:
                    continue
                for frame in packet.decode():
                    number += 1
                    # Some files have no time stamps, or some that go backwards.
                    stamp = last + step if number > 1 else 0
                    if frame.pts is not None:
                        first = frame.pts - stamp if first is None else first
                        stamp = frame.pts - first if frame.pts - first > last else stamp
                    last = stamp
                    yield Frame(_upright(frame), stamp, f"{path}, frame {number}")
        except av.FFmpegError as error:
            raise InputError(
                f"Video {path} is damaged at frame {number + 1} ({error.strerror}): copy it again "
                "from its source"
            ) from error
        lasts = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
    if end + _MISSING_SECONDS < lasts or not number:
        raise InputError(
            f"Video {path} ends after frame {number}, at {float(end):.1f} of {lasts:.1f} seconds: "
            "it is cut off; copy it again from its source"
        )


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple]:
    """PyAV's container and its stream of pictures."""
    av = import_av()
    # A title may be of any encoding; PyAV 19 knows, and has the option no more.
    options = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        container = av.open(os.fspath(path), **options)
    except (OSError, av.FFmpegError) as error:
        raise InputError(
            f"Video {path} cannot be read ({error.strerror}): it is missing, damaged or no video; "
            "copy it again from its source"
        ) from error
    with container:
        stream = container.streams.best("video")
        if stream is None:
            raise InputError(f"Video {path} holds no pictures: is it sound alone?")
        yield container, stream


@contextmanager
def _encoder(
    path: str | os.PathLike,
    header: VideoHeader,
    size: tuple[int, int],
    writing: Callable[[str | os.PathLike], AbstractContextManager[Path]],
) -> Iterator[Callable[[tuple[Image.Image, int]], None]]:
    av = import_av()
    size = tuple(length + length % 2 for length in size)
    try:
        with writing(path) as temporary, av.open(str(temporary), "w") as container:
            stream = container.add_stream("libx264", header.frame_rate, options=_ENCODING)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            codec = stream.codec_context
            # Not one of the frame rate's, or a varying one would be lost.
            codec.time_base = header.time_base
            # Said, or players guess the colours from the size.
            codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
            codec.color_range = _LIMITED_RANGE

            def encode(picture_and_time_stamp: tuple[Image.Image, int]) -> None:
                picture, time_stamp = picture_and_time_stamp
                canvas = Image.new("RGB", size, "white")
                canvas.paste(picture, (0, 0))
                frame = av.VideoFrame.from_image(canvas)
                frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709)
                frame.pts, frame.time_base = time_stamp, header.time_base
                container.mux(stream.encode(frame))

            yield encode
            container.mux(stream.encode())
    except (OSError, av.FFmpegError) as error:
        raise InputError(
            f"{path} cannot be written ({error}): make room, or choose another folder"
        ) from error


def _header(stream) -> VideoHeader:
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return VideoHeader(rate, stream.time_base, stream.frames or None)


def _upright(frame) -> np.ndarray:
    """A frame's pixels, turned by its metadata's angle where that is a multiple of 90 degrees."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
