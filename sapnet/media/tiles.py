"""Frames that are too large for memory, derained in tiles that overlap."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sapnet.config import PRESETS
from sapnet.derainer import Derained, Derainer
from sapnet.images.frame import Frame

# The network reaches some 500 pixels, but weakly: docs/benchmarks.md has what tiles cost.
OVERLAP = 64
MIN_TILE = 4 * OVERLAP
# Starts of tiles are multiples of it, as pixels are paired inside of the network.
_STEP = 8
# Bytes of a feature map's value, and feature maps that are in memory at a time: 0.3 GB a megapixel for sapnet_fast.
_FLOAT, _MAPS = 4, 10
_SHARE = 0.5  # of the free memory
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")

log = logging.getLogger(__name__)


class Tiler:
    """Derains frames of any size with bounded memory.

    tile: side of the tiles in pixels, from ``MIN_TILE``; 0 never tiles; None tiles where memory is short.
    """

    def __init__(self, derainer: Derainer, tile: int | None = None) -> None:
        self._derainer = derainer
        self._tile = tile
        self._known: dict[tuple[int, ...], int] = {}

    def __call__(self, frames: Sequence[Frame]) -> list[Derained]:
        """As ``Derainer.__call__``."""
        sides = [self._side(frame) for frame in frames]
        if not any(sides):
            return self._derainer(frames)
        return [
            derain_in_tiles(self._derainer, frame, side) if side else self._derainer([frame])[0]
            for frame, side in zip(frames, sides, strict=True)
        ]

    def _side(self, frame: Frame) -> int:
        """The side of the tiles for a frame; 0 for none."""
        height, width = frame.shape[:2]
        if self._tile is not None:
            return self._tile if self._tile and max(height, width) > self._tile else 0
        if frame.shape not in self._known:
            bound = _pixels_that_fit(self._derainer.weights)
            side = max(MIN_TILE, math.isqrt(bound) // _STEP * _STEP) if height * width > bound else 0
            if side:
                log.warning("%dx%d is derained in tiles of at most %dx%d: memory is short", height, width, side, side)
            self._known[frame.shape] = side
        return self._known[frame.shape]


def derain_in_tiles(derainer: Derainer, frame: Frame, side: int) -> Derained:
    """Derain a frame in tiles of at most ``side`` pixels, blended linearly where they overlap.

    The attention's mean is over a tile instead of over the frame. Raises as ``Derainer.__call__`` does.
    """
    height, width = frame.shape[:2]
    tall, wide = _length(height, side), _length(width, side)
    rows, columns = _starts(height, tall), _starts(width, wide)
    # The frame and its streaks as four channels, so that they are blended alike.
    whole = np.empty((height, width, 4), np.uint8)
    band = np.empty((tall, width, 4), np.uint8)
    below = 0
    for top in rows:
        right = 0
        for left in columns:
            [part] = derainer([frame[top : top + tall, left : left + wide]])
            tile = np.dstack([part.image, part.streaks])
            _lay(band.swapaxes(0, 1), tile.swapaxes(0, 1), left, right)
            right = left + wide
        _lay(whole, band, top, below)
        below = top + tall
    image, streaks = np.ascontiguousarray(whole[..., :3]), np.ascontiguousarray(whole[..., 3])
    return Derained(image, streaks, derainer.mask_threshold)


def _pixels_that_fit(weights: str) -> int:
    """Pixels of a frame that the network can derain in half of the memory that is free."""
    from sapnet.model.weights import load_weights

    config = PRESETS[weights] if weights in PRESETS else load_weights(weights).config
    return int(_SHARE * _free_bytes() / (_FLOAT * _MAPS * config.channels / config.downscale**2))


def _free_bytes() -> int:
    """Memory that is free to this process, on the GPU too where there is one."""
    import torch

    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        free = min(free, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no limit
        pass
    if torch.cuda.is_available():
        free = min(free, torch.cuda.mem_get_info()[0])
    return max(0, free)


def _length(length: int, side: int) -> int:
    """The side of the smallest tiles that cover ``length`` in as few tiles as ``side`` would."""
    count = len(_starts(length, side))
    shortest = math.ceil((length - OVERLAP) / count) + OVERLAP + _STEP
    return min(length, side, math.ceil(shortest / _STEP) * _STEP)


def _starts(length: int, side: int) -> list[int]:
    """Where tiles of ``side`` start so that they cover ``length`` and overlap by at least ``OVERLAP``."""
    if length <= side:
        return [0]
    count = math.ceil((length - OVERLAP) / (side - OVERLAP - _STEP))
    between = np.linspace(0, length - side, count)[:-1] // _STEP * _STEP
    return [*between.astype(int).tolist(), length - side]


def _lay(whole: NDArray[np.uint8], part: NDArray[np.uint8], start: int, filled: int) -> None:
    """Put a part at ``start`` of the first axis, blended with what is there up to ``filled``."""
    overlap = max(0, filled - start)
    ramp = ((np.arange(overlap, dtype=np.float32) + 0.5) / max(1, overlap))[:, None, None]
    blended = whole[start:filled] * (1 - ramp) + part[:overlap] * ramp if overlap else part[:0]
    whole[start : start + overlap] = np.rint(blended)
    whole[start + overlap : start + len(part)] = part[overlap:]
