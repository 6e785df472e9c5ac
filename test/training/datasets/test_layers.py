"""Streaks taken out of pairs and laid on other photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sapnet.errors import ImageFormatError
from training.config import DataConfig
from training.datasets.augment import Augmentation
from training.datasets.layers import StreakLayers, streak_layer
from training.datasets.paired import find_pairs
from training.datasets.synthetic import SyntheticRain
from training.stream import find_sources, make_stream


def write_pair(folder: Path, streaks: np.ndarray) -> None:
    """A pair under ``folder`` whose rainy half has these streaks, uint8 (H, W), added to a coloured scene."""
    clean = np.random.default_rng(0).integers(0, 200, (*streaks.shape, 3)).astype(np.uint8)
    for part, image in (("rainy", np.minimum(clean + streaks[..., None].astype(int), 255)), ("clean", clean)):
        (folder / part).mkdir(parents=True)
        cv2.imwrite(str(folder / part / "1.png"), image.astype(np.uint8))


def test_streaks_are_found_behind_clipped_channels() -> None:
    clean = np.full((4, 4, 3), (250, 120, 30), np.uint8)
    rainy = np.full((4, 4, 3), (255, 220, 130), np.uint8)
    assert (streak_layer(rainy, clean) == 100).all()


def test_streaks_of_pairs_fall_on_photographs(photographs: Path, tmp_path: Path) -> None:
    streaks = np.zeros((90, 80), np.uint8)
    streaks[:, ::8] = 60
    write_pair(tmp_path, streaks)
    pairs = find_pairs(tmp_path)
    plain = Augmentation(mirror=0, gamma=0, noise=0, jpeg=0)

    def sample(share: float, index: int) -> tuple[np.ndarray, np.ndarray]:
        layers = StreakLayers(pairs, lambda path: cv2.imread(str(path)), share)
        made = SyntheticRain(photographs, "dry", 48, 3, 40, plain, layers).make(index)
        return made.rainy.astype(int) - made.clean, made.streaks

    laid = [sample(1.0, index) for index in range(40)]
    for added, mask in laid:
        assert added.min() >= 0
        # Streaks from top to bottom, neither everywhere nor nowhere, as strong as they were, give or take.
        assert 30 < np.percentile(added, 99) <= 80
        assert 0.02 < mask.mean() < 0.5
    shares = [sample(0.5, index)[1].any() for index in range(40)]
    assert 8 < sum(shares) < 32
    assert len({added.tobytes() for added, _ in laid}) == 40


def test_a_run_takes_them_from_its_settings(photographs: Path, tmp_path: Path) -> None:
    write_pair(tmp_path, np.full((60, 60), 40, np.uint8))
    data = DataConfig(
        clean=str(photographs), crop=32, final_crop=40, batch=1, rain="dry", streaks=(str(tmp_path),), streaks_share=1
    )
    stream = make_stream(find_sources(data), data, 10, 1, 0)
    assert all(stream[index]["streaks"].float().mean() > 0.5 for index in range(10))
    write_pair(tmp_path / "small", np.full((36, 36), 40, np.uint8))
    with pytest.raises(ImageFormatError, match="36x36, expected at least 40x40"):
        find_sources(DataConfig(clean=str(photographs), crop=32, final_crop=40, streaks=(str(tmp_path / "small"),)))
    with pytest.raises(ValueError, match=r"data\.streaks needs data\.clean"):
        DataConfig(clean="", paired=("pairs",), streaks=("pairs",))
