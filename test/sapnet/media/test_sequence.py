"""Frames of pictures, folders and videos, and sequences to play: built-in photographs, rain, limits."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from picture_builders import flat
from sapnet.errors import ImageFormatError
from sapnet.media.sequence import RainySequence, builtin_frames, read_frames
from sapnet.media.videos import write_video


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


def test_folder_in_natural_order_with_unequal_sizes(tmp_path: Path) -> None:
    sizes = {"f10.png": (20, 30), "f2.png": (30, 20), "F1.JPG": (16, 16)}
    for name, size in sizes.items():
        cv2.imwrite(str(tmp_path / name), flat(50, *size))
    (tmp_path / "notes.txt").write_text("not an image")
    names = ["F1.JPG", "f2.png", "f10.png"]
    assert [(name, frame.shape[:2]) for name, frame in read_frames(tmp_path)] == [(name, sizes[name]) for name in names]
    ((name, frame),) = read_frames(tmp_path / "f2.png")
    assert name == "f2.png"
    np.testing.assert_array_equal(frame, flat(50, 30, 20))
    (tmp_path / "f11.png").write_bytes(b"broken")
    frames = read_frames(tmp_path)  # one at a time
    assert [name for name, _ in islice(frames, 3)] == names
    with pytest.raises(ImageFormatError, match=r"f11\.png is not a picture that can be read"):
        next(frames)


def test_video(tmp_path: Path) -> None:
    with write_video(tmp_path / "v.mp4", 12.0) as video:
        for index in range(5):
            video.write(flat(20 * index, 32, 48))
    frames = list(read_frames(tmp_path / "v.mp4"))
    assert [name for name, _ in frames] == [f"{index:06d}" for index in range(5)]
    assert [int(frame.mean()) for _, frame in frames] == pytest.approx([0, 20, 40, 60, 80], abs=3)
