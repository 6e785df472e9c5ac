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

    tile: side in pixels of the tiles that larger frames are derained in, from ``MIN_TILE``; 0 never tiles; None takes
    the largest that half of the free memory has room for.
    """

    def __init__(self, derainer: Derainer, tile: int | None = None) -> None:
        self._derainer = derainer
        self._side = _side_that_fits(derainer.weights) if tile is None else tile
        self._told = tile is not None

    def __call__(self, frames: Sequence[Frame]) -> list[Derained]:
        """As ``Derainer.__call__``."""
        large = [0 < self._side**2 < frame.shape[0] * frame.shape[1] for frame in frames]
        if any(large) and not self._told:
            self._told = True
            log.warning("memory is short: larger frames are derained in tiles of at most %dx%d", self._side, self._side)
        others = iter(self._derainer([frame for frame, is_large in zip(frames, large, strict=True) if not is_large]))
        return [
            derain_in_tiles(self._derainer, frame, self._side) if is_large else next(others)
            for frame, is_large in zip(frames, large, strict=True)
        ]


def derain_in_tiles(derainer: Derainer, frame: Frame, side: int) -> Derained:
    """Derain a frame in tiles of at most ``side`` pixels, blended linearly where they overlap.

    The attention's mean is over a tile instead of over the frame. Raises as ``Derainer.__call__`` does.
    """
    height, width = frame.shape[:2]
    tall, rows = _split(height, side)
    wide, columns = _split(width, side)
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


def _side_that_fits(weights: str) -> int:
    """The side of the largest square that the network can derain in half of the memory that is free."""
    from sapnet.model.weights import load_weights

    config = PRESETS[weights] if weights in PRESETS else load_weights(weights).config
    pixels = int(_SHARE * _free_bytes() / (_FLOAT * _MAPS * config.channels / config.downscale**2))
    return max(MIN_TILE, math.isqrt(pixels))


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


def _split(length: int, side: int) -> tuple[int, list[int]]:
    """The length and the starts of the smallest of the fewest tiles that cover ``length``."""
    if length <= side:
        return length, [0]
    count = math.ceil((length - OVERLAP) / ((side - OVERLAP) // _STEP * _STEP))
    step = math.ceil((length - OVERLAP) / count / _STEP) * _STEP
    return step + OVERLAP, [*range(0, step * (count - 1), step), length - step - OVERLAP]


def _lay(whole: NDArray[np.uint8], part: NDArray[np.uint8], start: int, filled: int) -> None:
    """Put a part at ``start`` of the first axis, blended with what is there up to ``filled``."""
    overlap = filled - start
    ramp = ((np.arange(overlap, dtype=np.float32) + 0.5) / max(1, overlap))[:, None, None]
    whole[start:filled] = np.rint(whole[start:filled] * (1 - ramp) + part[:overlap] * ramp)
    whole[filled : start + len(part)] = part[overlap:]
