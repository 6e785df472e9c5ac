"""Frames of a picture, a folder of pictures or a video, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sapnet.errors import ImageFormatError, SapnetError
from sapnet.files import natural_key
from sapnet.images.frame import Frame
from sapnet.media.formats import IMAGE_SUFFIXES, is_image
from sapnet.media.pictures import read_image
from sapnet.media.videos import read_video

__all__ = ["IMAGE_SUFFIXES", "FrameSource", "open_source", "read_image"]


@dataclass(frozen=True)
class FrameSource:
    """Iterates (name, frame) as often as asked, reading as it goes; frames are uint8 (H, W, 3) BGR.

    name: a file's name for pictures, a running number for the frames of a video or recording.
    fps: frames per second; None for pictures. count: frames to expect; None if unknown.
    Iterating raises SapnetError at a frame that cannot be read.
    """

    path: Path
    fps: float | None
    count: int | None
    frames: Callable[[], Iterator[tuple[str, Frame]]]

    def __iter__(self) -> Iterator[tuple[str, Frame]]:
        return self.frames()


def open_source(path: Path) -> FrameSource:
    """Open a picture, a folder of pictures or a video.

    Raises SapnetError where nothing is, ImageFormatError where it cannot be read.
    """
    if not path.exists():
        raise SapnetError(f"{path} does not exist; check the path")
    if path.is_dir() or is_image(path):
        files = _pictures_in(path) if path.is_dir() else [path]
        return FrameSource(path, None, len(files), partial(_images, files))
    with read_video(path) as video:
        return FrameSource(path, float(video.rate), video.count, partial(_video_frames, path))


def _pictures_in(path: Path) -> list[Path]:
    files = [file for file in path.iterdir() if is_image(file) and file.is_file()]
    if not files:
        raise SapnetError(f"{path} holds no pictures; expected files ending in {' '.join(IMAGE_SUFFIXES)}")
    return sorted(files, key=lambda file: natural_key(file.name))


def _images(files: list[Path]) -> Iterator[tuple[str, Frame]]:
    for file in files:
        yield file.name, read_image(file)


def _video_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    with read_video(path) as video:
        for index, frame in enumerate(video.frames()):
            yield f"{index:06d}", frame.pixels
        if video.damage:
            raise ImageFormatError(f"{path} can be read only in part: {video.damage}", "decode")
