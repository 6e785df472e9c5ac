"""Contact sheets, side-by-side videos, PSNR."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from picture_builders import flat
from sapnet.images.frame import psnr, psnr_y
from sapnet.media.contact_sheet import contact_sheet, side_by_side_video
from sapnet.media.videos import read_video

RED, BLUE = (0, 0, 255), (255, 0, 0)


def count(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(axis=2).sum())


def test_contact_sheet_scales_rows_and_leaves_gaps_blank(tmp_path: Path) -> None:
    mask = np.full((480, 640), 255, np.uint8)
    rows = [{"rainy": flat(RED, 160, 80)}, {"rainy": flat(BLUE, 480, 640), "streak mask": mask}]
    contact_sheet(rows, tmp_path / "sheet.png", ["first", "second"])
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert (count(sheet, RED), count(sheet, BLUE)) == (320 * 160, 240 * 320)
    assert count(sheet, (255, 255, 255)) >= 240 * 320
    assert sheet.shape[1] == 2 * 320 + 3 * 10
    assert (sheet[:, [*range(10), *range(-10, 0)]] == sheet[0, 0]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_side_by_side_video_with_unequal_and_odd_sizes(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with side_by_side_video(path, 10.0, 61, 81) as add:
        add(flat(RED, 61, 41), flat(BLUE, 61, 41))
        add(flat(RED, 31, 81), flat(BLUE, 31, 81))
        assert not path.exists()
    with read_video(path) as video:
        assert video.rate == 10
        frames = [frame.pixels for frame in video.frames()]
    for frame, width, height in zip(frames, (41, 81), (61, 31), strict=True):
        blue, _, red = cv2.split(frame)
        left, right = np.split(np.where((red > 150) & (blue < 120), 1, 0), 2, axis=1)
        assert left.sum() == pytest.approx(width * height, rel=0.1)
        assert right.sum() == 0


def test_psnr_is_on_y_and_over_all_samples() -> None:
    black = flat((0, 0, 0), 16, 16)
    white = flat((255, 255, 255), 16, 16)
    assert psnr_y(white, black) == pytest.approx(10 * np.log10(255**2 / 219**2), abs=1e-3)
    assert psnr_y(flat((0, 0, 10), 16, 16), black) == pytest.approx(20 * np.log10(255 / (10 * 65.481 / 255)))
    assert psnr_y(white, white) == float("inf")
    over_all_samples = 20 * np.log10(255 / 10) + 10 * np.log10(3)
    assert psnr(flat((0, 0, 10), 16, 16), black) == pytest.approx(over_all_samples)
