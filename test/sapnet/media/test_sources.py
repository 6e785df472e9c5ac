"""Frames of pictures, folders and videos."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from picture_builders import flat
from sapnet.errors import ImageFormatError
from sapnet.media.sequence import read_frames
from sapnet.media.videos import write_video


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
