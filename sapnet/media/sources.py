"""Frames of a picture, a folder of pictures or a video, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapnet.errors import ImageFormatError, SapnetError
from sapnet.files import natural_key
from sapnet.images.frame import Frame
from sapnet.media.formats import IMAGE_SUFFIXES, is_image
from sapnet.media.pictures import read_image
from sapnet.media.videos import read_video

__all__ = ["IMAGE_SUFFIXES", "read_frames", "read_image"]


def read_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    """Names and frames, uint8 (H, W, 3) BGR, of a picture, a folder of pictures or a video, read as they are asked for.

    A picture's name is its file's, that of a video's frame its number. Raises SapnetError where nothing is,
    ImageFormatError at a frame that cannot be read.
    """
    if not path.exists():
        raise SapnetError(f"{path} does not exist; check the path")
    if path.is_dir() or is_image(path):
        for file in _pictures_in(path) if path.is_dir() else [path]:
            yield file.name, read_image(file)
        return
    with read_video(path) as video:
        for index, frame in enumerate(video.frames()):
            yield f"{index:06d}", frame.pixels
        if video.damage:
            raise ImageFormatError(f"{path} can be read only in part: {video.damage}", "decode")


def _pictures_in(path: Path) -> list[Path]:
    files = [file for file in path.iterdir() if is_image(file) and file.is_file()]
    if not files:
        raise SapnetError(f"{path} holds no pictures; expected files ending in {' '.join(IMAGE_SUFFIXES)}")
    return sorted(files, key=lambda file: natural_key(file.name))
