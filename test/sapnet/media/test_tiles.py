"""Tiles: what they cover, how they join, and when they are used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sapnet.derainer import Derained, Derainer
from sapnet.images.frame import Frame
from sapnet.media import tiles
from sapnet.media.tiles import Tiler, derain_in_tiles


class Spy(Derainer):
    """The fake backend, which returns what it gets; notes the sizes."""

    def __init__(self) -> None:
        super().__init__(backend="fake")
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, frames: Sequence[Frame]) -> list[Derained]:
        self.sizes += [frame.shape[:2] for frame in frames]
        return super().__call__(frames)


@pytest.mark.parametrize(
    ("size", "tile"),
    [((300, 300), (184, 184)), ((257, 1000), (168, 256)), ((1000, 20), (256, 20)), ((513, 769), (216, 248))],
)
def test_few_tiles_of_one_size_cover_the_frame(make_frame: Any, size: tuple[int, int], tile: tuple[int, int]) -> None:
    spy = Spy()
    derained = derain_in_tiles(spy, make_frame(*size), 256)
    np.testing.assert_array_equal(derained.image, make_frame(*size))
    assert set(spy.sizes) == {tile}


def test_neighbours_are_blended(make_frame: Any) -> None:
    class Ramp(Spy):
        def __call__(self, frames: Sequence[Frame]) -> list[Derained]:
            level = 100 + 20 * len(self.sizes)
            self.sizes.append(frames[0].shape)
            return [Derained(np.full_like(frames[0], level), np.full(frames[0].shape[:2], level, np.uint8))]

    derained = derain_in_tiles(Ramp(), make_frame(64, 400), 256)
    row = derained.image[30, :, 0].astype(int)
    assert (row[0], row[-1]) == (100, 120)
    assert set(np.diff(row)) == {0, 1}
    np.testing.assert_array_equal(derained.streaks, derained.image[..., 0])


def test_frames_are_tiled_where_memory_is_short(
    make_frame: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spy = Spy()
    monkeypatch.setattr(tiles, "_free_bytes", lambda: 2 * 320 * 300_000)  # 300,000 pixels of sapnet_fast
    tiler = Tiler(spy)
    tiler([make_frame(500, 500)])
    assert spy.sizes == [(500, 500)]
    tiler([make_frame(600, 600)])
    assert set(spy.sizes[1:]) == {(336, 336)}
    assert caplog.text.count("memory is short: larger frames are derained in tiles of at most 547x547") == 1


@pytest.mark.parametrize(("tile", "expected"), [(0, (600, 600)), (320, (248, 248))])
def test_a_given_side_is_the_largest(make_frame: Any, tile: int, expected: tuple[int, int]) -> None:
    spy = Spy()
    Tiler(spy, tile)([make_frame(600, 600)])
    assert set(spy.sizes) == {expected}


def test_free_memory_is_that_of_the_control_group_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_CGROUP", tmp_path)
    free = tiles._free_bytes()
    assert free > 1 << 20
    (tmp_path / "memory.max").write_text("2000000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    assert tiles._free_bytes() == 1_500_000
