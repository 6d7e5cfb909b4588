"""Read and write videos with OpenCV.

Shape shorthands: H, W: height and width in pixels, upright.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain, count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sar.errors import InputError
from sar.files.atomic import atomic_path
from sar.threads import map_ahead

if TYPE_CHECKING:
    import cv2

_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif")
# How much earlier than its header says a sound video may end: such numbers are rounded.
_MISSING_SECONDS = 1
# MPEG-4 part 2: the one common codec for mp4 that every build of OpenCV can write.
_CODEC = "mp4v"


@dataclass(frozen=True)
class VideoHeader:
    """The facts about a video that its header states.

    Attributes:
        frame_rate: frames per second; the mean if the rate varies.
        num_frames: None if unknown.
    """

    frame_rate: float
    num_frames: int | None


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture of a video.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        name: file and number, for errors.
    """

    pixels: np.ndarray
    name: str


def import_cv2():
    """Return the module of OpenCV, which only videos need.

    Raises:
        InputError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise InputError(f"videos need OpenCV ({error}): run pip install opencv-python") from error
    return cv2


def is_video(path: str | os.PathLike) -> bool:
    """Return if the name of a file has the suffix of a video."""
    return os.fspath(path).lower().endswith(_SUFFIXES)


def read_video_header(path: str | os.PathLike) -> VideoHeader:
    """Read the header of a video.

    Raises:
        InputError: the file is missing or not a video, or OpenCV is not installed.
    """
    with _opened(path) as capture:
        return _header(capture)


def read_video(path: str | os.PathLike) -> Iterator[Frame]:
    """Yield the frames of a video, upright. A thread decodes two frames ahead.

    Like a player, this conceals or skips single damaged frames without an error.

    Raises:
        InputError: the file is missing or not a video; OpenCV is not installed; or the video ends
            too early, after its last frame was yielded.
    """
    frames = _decode(path)
    ahead = map_ahead(lambda _: next(frames, None), count(), 1)
    return takewhile(lambda frame: frame is not None, ahead)


def write_video(
    path: str | os.PathLike,
    frame_rate: float,
    pictures: Iterable[Image.Image],
    *,
    writing: Callable[[str | os.PathLike], AbstractContextManager[Path]] = atomic_path,
) -> Iterator[None]:
    """Write RGB pictures to an mp4 (MPEG-4 part 2), and yield once per picture.

    A thread encodes the pictures, two behind, so exhaust the iterator. The file gets its name when
    it is complete. Without pictures, no file is written. An odd width or height is not possible in
    this format, so such pictures get a white line.

    Args:
        frame_rate: frames per second.
        pictures: all have the size of the first one, or are cut to it.
        writing: yields a temporary path for `path`, like `Outputs.writing`.

    Raises:
        InputError: the file cannot be written, or OpenCV is not installed.
    """
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is not None:
        with _encoder(path, frame_rate, first.size, writing) as encode:
            yield from map_ahead(encode, chain([first], pictures), 1)


def _decode(path: str | os.PathLike) -> Iterator[Frame]:
    cv2 = import_cv2()
    number, end = 0, 0.0
    with _opened(path) as capture:
        header = _header(capture)
        while True:
            found, pixels = capture.read()
            if not found:
                break
            number += 1
            end = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield Frame(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), f"{path}, frame {number}")
    # `end` is the time at which the last frame starts.
    shown, duration = 1 / header.frame_rate, (header.num_frames or 0) / header.frame_rate
    is_short = number < (header.num_frames or 0) and end + shown + _MISSING_SECONDS < duration
    if is_short or not number:
        raise InputError(
            f"Video {path} ends after frame {number}, at {end:.1f} of {duration:.1f} seconds: "
            "it is cut off or damaged; copy it again from its source"
        )


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator["cv2.VideoCapture"]:
    cv2 = import_cv2()
    # An absolute path: FFmpeg takes the part before a colon for the name of a protocol.
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise InputError(
                f"Video {path} cannot be read: it is missing, damaged, or not a video; copy it "
                "again from its source"
            )
        yield capture
    finally:
        capture.release()


def _header(capture: "cv2.VideoCapture") -> VideoHeader:
    cv2 = import_cv2()
    frame_rate = capture.get(cv2.CAP_PROP_FPS)
    num_frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return VideoHeader(
        frame_rate if frame_rate > 0 else 25.0, num_frames if num_frames > 0 else None
    )


@contextmanager
def _encoder(
    path: str | os.PathLike,
    frame_rate: float,
    size: tuple[int, int],
    writing: Callable[[str | os.PathLike], AbstractContextManager[Path]],
) -> Iterator[Callable[[Image.Image], None]]:
    cv2 = import_cv2()
    codec = cv2.VideoWriter_fourcc(*_CODEC)
    size = tuple(length + length % 2 for length in size)
    num_frames = 0

    def encode(picture: Image.Image) -> None:
        nonlocal num_frames
        canvas = Image.new("RGB", size, "white")
        canvas.paste(picture, (0, 0))
        writer.write(cv2.cvtColor(np.asarray(canvas), cv2.COLOR_RGB2BGR))
        num_frames += 1

    try:
        with writing(path) as temporary:
            writer = cv2.VideoWriter(
                os.path.abspath(temporary), cv2.CAP_FFMPEG, codec, frame_rate, size
            )
            try:
                yield encode
            finally:
                writer.release()
            # OpenCV reports no error of the disk.
            if not _has_frames(temporary, num_frames):
                raise InputError(f"{path} cannot be written: make room, or choose another folder")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error}): make room, or choose another folder"
        ) from error


def _has_frames(path: Path, number: int) -> bool:
    try:
        return read_video_header(path).num_frames == number
    except InputError:
        return False
