"""Small photographs and pairs to train on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from picture_builders import write_pair
from sapnet.media.pictures import write_image


def photograph(seed: int, height: int = 72, width: int = 88) -> np.ndarray:
    """Smooth shapes with some texture, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 200, (6, 8, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five clean photographs."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(5):
        write_image(folder / f"{seed}.png", photograph(seed))
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two pairs, brighter by 30 on every fourth column."""
    folder = tmp_path_factory.mktemp("pairs")
    for seed in (10, 11):
        clean = photograph(seed)
        rainy = clean.copy()
        rainy[:, ::4] = np.minimum(rainy[:, ::4].astype(int) + 30, 255)
        write_pair(folder, f"{seed}.png", rainy, clean)
    return folder
