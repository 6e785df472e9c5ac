"""Streaks taken out of pairs; test_stream.py lays them on other photographs."""

from __future__ import annotations

import numpy as np

from training.datasets.layers import streak_layer


def test_streaks_are_found_behind_clipped_channels() -> None:
    clean = np.full((4, 4, 3), (250, 120, 30), np.uint8)
    rainy = np.full((4, 4, 3), (255, 220, 130), np.uint8)
    assert (streak_layer(rainy, clean) == 100).all()
