"""Frames one after another: of pictures and videos, of built-in photographs in motion, and in synthetic rain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np

from sapnet.errors import ImageFormatError, SapnetError
from sapnet.files import natural_key
from sapnet.images.frame import Frame
from sapnet.media.formats import PICTURE_FORMATS, is_image
from sapnet.media.pictures import read_image
from sapnet.media.videos import read_video
from sapnet.rain import RainSynthesizer

NO_RAIN = "none"
BUILTIN_HEIGHT, BUILTIN_WIDTH = 240, 320
BUILTIN_FRAMES = 60

# Public domain or CC0, by scikit-image's own notes on its data.
_PHOTOGRAPHS = ("rocket.jpg", "chelsea.png", "coffee.png")
# A photograph is shown this much higher than the frame, which leaves room to pan.
_ZOOM = 1.12
_SEED = 5


def read_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    """Names and frames, uint8 (H, W, 3) BGR, of a picture, a folder of pictures or a video, read as they are asked for.

    A picture's name is its file's, that of a video's frame its number. Raises SapnetError where nothing is,
    ImageFormatError at a frame that cannot be read.
    """
    if not path.exists():
        raise SapnetError(f"{path} does not exist; check the path")
    if path.is_dir() or is_image(path):
        found = [file for file in path.iterdir() if is_image(file) and file.is_file()] if path.is_dir() else [path]
        if not found:
            raise SapnetError(f"{path} holds no pictures; expected files ending in {' '.join(PICTURE_FORMATS)}")
        for file in sorted(found, key=lambda file: natural_key(file.name)):
            yield file.name, read_image(file)
        return
    with read_video(path) as video:
        for index, frame in enumerate(video.frames()):
            yield f"{index:06d}", frame.pixels
        if video.damage:
            raise ImageFormatError(f"{path} can be read only in part: {video.damage}", "decode")


class RainyFrame(NamedTuple):
    """rainy: uint8 (H, W, 3) BGR. clean: the same without rain; None where it is not known."""

    name: str
    rainy: Frame
    clean: Frame | None


@dataclass(frozen=True)
class RainySequence:
    """What to play. Iterating again gives the same frames.

    source: image, folder or video; None for the built-in photographs.
    rain: ``none``, or a preset of ``sapnet.rain`` to add to frames taken as clean.
    limit: frames at most. max_width: wider frames are scaled down; 0 for none.
    reader: gives names and frames of the source.
    """

    source: Path | None = None
    rain: str = NO_RAIN
    limit: int = BUILTIN_FRAMES
    max_width: int = 0
    reader: Callable[[Path], Iterator[tuple[str, Frame]]] = read_frames

    def __iter__(self) -> Iterator[RainyFrame]:
        frames = builtin_frames(self.limit) if self.source is None else self.reader(self.source)
        rain_of = cache(lambda height, width: RainSynthesizer(self.rain, height, width, _SEED))
        for index, (name, frame) in enumerate(islice(frames, self.limit)):
            shown = limit_width(frame, self.max_width)
            if self.rain == NO_RAIN:
                yield RainyFrame(name, shown, None)
            else:
                yield RainyFrame(name, rain_of(*shown.shape[:2]).add(shown, index)[0], shown)


def limit_width(frame: Frame, max_width: int) -> Frame:
    """The frame, scaled down to ``max_width`` columns if it has more; 0 leaves it as it is."""
    height, width = frame.shape[:2]
    if not max_width or width <= max_width:
        return frame
    size = max_width, max(1, round(height * max_width / width))
    return cast(Frame, cv2.resize(frame, size, interpolation=cv2.INTER_AREA))


def builtin_frames(count: int = BUILTIN_FRAMES) -> Iterator[tuple[str, Frame]]:
    """Photographs that come with scikit-image, each panned for an equal share of ``count`` frames of 240x320."""
    try:
        folder = Path(str(files("skimage"))) / "data"
    except ModuleNotFoundError as err:
        raise SapnetError(
            "the built-in sequence uses photographs of scikit-image: pip install scikit-image, or give an input"
        ) from err
    for name, share in zip(_PHOTOGRAPHS, np.array_split(np.arange(count), len(_PHOTOGRAPHS)), strict=True):
        photograph = read_image(folder / name)
        scale = _ZOOM * max(BUILTIN_HEIGHT / photograph.shape[0], BUILTIN_WIDTH / photograph.shape[1])
        photograph = cast(Frame, cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        room = np.subtract(photograph.shape[:2], (BUILTIN_HEIGHT, BUILTIN_WIDTH))
        for progress in np.linspace(0, 1, len(share)):
            top, left = np.rint(progress * room).astype(int)
            yield Path(name).stem, photograph[top : top + BUILTIN_HEIGHT, left : left + BUILTIN_WIDTH].copy()
