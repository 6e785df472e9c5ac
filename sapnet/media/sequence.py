"""Rainy sequences for demo and benchmarks: a source's frames or built-in photographs in motion, in synthetic rain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from sapnet.errors import SapnetError
from sapnet.images.frame import Frame
from sapnet.media.pictures import read_image
from sapnet.media.sources import FrameSource, open_source
from sapnet.rain import RainSynthesizer

NO_RAIN = "none"
BUILTIN_HEIGHT, BUILTIN_WIDTH = 240, 320
BUILTIN_FRAMES = 60

# Public domain or CC0, by scikit-image's own notes on its data.
_PHOTOGRAPHS = ("rocket.jpg", "chelsea.png", "coffee.png")
# A photograph is shown this much higher than the frame, which leaves room to pan.
_ZOOM = 1.12


@dataclass(frozen=True)
class RainySequence:
    """What to play. Iterating again gives the same frames.

    source: image, folder or video; None for the built-in photographs. opener: what opens it.
    rain: ``none``, or a preset of ``sapnet.rain`` to add to frames taken as clean.
    limit: frames at most; 0 for all of them. max_width: wider frames are scaled down; 0 for none.
    """

    source: Path | None = None
    rain: str = NO_RAIN
    limit: int = BUILTIN_FRAMES
    max_width: int = 0
    seed: int = 5
    opener: Callable[[Path], FrameSource] = open_source

    def __iter__(self) -> Iterator[RainyFrame]:
        rains: dict[tuple[int, int], RainSynthesizer] = {}
        for index, (name, frame) in enumerate(islice(self._open(), self.limit or None)):
            clean = limit_width(frame, self.max_width)
            if self.rain == NO_RAIN:
                yield RainyFrame(name, clean, None)
                continue
            size = clean.shape[0], clean.shape[1]
            if size not in rains:
                rains[size] = RainSynthesizer(self.rain, *size, seed=self.seed)
            yield RainyFrame(name, rains[size].add(clean, index)[0], clean)

    def expected_frames(self) -> int | None:
        """How many frames will come; None if the source cannot tell. Raises SapnetError where it cannot be opened."""
        count = self._open().count
        return min(count, self.limit) if count and self.limit else count

    def _open(self) -> FrameSource:
        return builtin_source(self.limit or BUILTIN_FRAMES) if self.source is None else self.opener(self.source)


@dataclass(frozen=True)
class RainyFrame:
    """rainy: uint8 (H, W, 3) BGR. clean: the same without rain; None where it is not known."""

    name: str
    rainy: Frame
    clean: Frame | None


def limit_width(frame: Frame, max_width: int) -> Frame:
    """The frame, scaled down to ``max_width`` columns if it has more; 0 leaves it as it is."""
    height, width = frame.shape[:2]
    if not max_width or width <= max_width:
        return frame
    size = max_width, max(1, round(height * max_width / width))
    return cast(Frame, cv2.resize(frame, size, interpolation=cv2.INTER_AREA))


def builtin_source(count: int = BUILTIN_FRAMES) -> FrameSource:
    """Photographs that come with scikit-image, each panned for an equal share of ``count`` frames of 240x320."""
    found = find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise SapnetError(
            "the built-in sequence uses photographs of scikit-image: pip install scikit-image, or give an input"
        )
    folder = Path(found.submodule_search_locations[0]) / "data"
    return FrameSource(folder, 10.0, count, partial(_pan_photographs, folder, count))


def _pan_photographs(folder: Path, count: int) -> Iterator[tuple[str, Frame]]:
    shares = np.array_split(np.arange(count), len(_PHOTOGRAPHS))
    for name, share in zip(_PHOTOGRAPHS, shares, strict=True):
        photograph = _cover(read_image(folder / name))
        for step in range(len(share)):
            yield Path(name).stem, _view(photograph, step / max(1, len(share) - 1))


def _cover(photograph: Frame) -> Frame:
    """Scaled so that the frame fits in and can move."""
    height, width = photograph.shape[:2]
    scale = _ZOOM * max(BUILTIN_HEIGHT / height, BUILTIN_WIDTH / width)
    return cast(Frame, cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def _view(photograph: Frame, progress: float) -> Frame:
    """The frame at ``progress`` (0 to 1) of a smooth way across the photograph and back up a little."""
    height, width = photograph.shape[:2]
    smooth = progress * progress * (3 - 2 * progress)
    left = smooth * (width - BUILTIN_WIDTH)
    top = (0.5 - 0.4 * np.cos(np.pi * smooth)) * (height - BUILTIN_HEIGHT)
    shift = np.array([[1, 0, -left], [0, 1, -top]], np.float64)
    return cast(Frame, cv2.warpAffine(photograph, shift, (BUILTIN_WIDTH, BUILTIN_HEIGHT), flags=cv2.INTER_CUBIC))
