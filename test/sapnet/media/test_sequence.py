"""Sequences to play: built-in photographs, rain, limits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from picture_builders import flat
from sapnet.media.sequence import RainySequence, builtin_frames


def test_builtin_photographs_move() -> None:
    pytest.importorskip("skimage", reason="the built-in photographs come with scikit-image")
    frames = list(builtin_frames(9))
    assert [name for name, _ in frames] == ["rocket"] * 3 + ["chelsea"] * 3 + ["coffee"] * 3
    assert {frame.shape for _, frame in frames} == {(240, 320, 3)}
    assert all(not np.array_equal(frames[index][1], frames[index + 1][1]) for index in range(8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, size in enumerate([(40, 60), (60, 40), (40, 60), (40, 60)]):
        cv2.imwrite(str(tmp_path / f"{index}.png"), flat(60, *size))
    return tmp_path


def test_rain_falls_on_every_size_differs_from_frame_to_frame_and_is_the_same_again(folder: Path) -> None:
    frames = list(RainySequence(folder, rain="light"))
    for frame in frames:
        assert (frame.clean == 60).all()
        assert frame.rainy.max() > 70
    assert not np.array_equal(frames[0].rainy, frames[2].rainy)
    for frame, again in zip(frames, RainySequence(folder, rain="light"), strict=True):
        np.testing.assert_array_equal(again.rainy, frame.rainy)


def test_limits(folder: Path) -> None:
    sequence = RainySequence(folder, limit=2, max_width=30)
    assert [frame.rainy.shape for frame in sequence] == [(20, 30, 3), (45, 30, 3)]
    assert [frame.rainy.shape for frame in RainySequence(folder)] == [(40, 60, 3), (60, 40, 3), *[(40, 60, 3)] * 2]
