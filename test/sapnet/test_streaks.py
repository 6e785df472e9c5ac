from __future__ import annotations

import numpy as np
import pytest

from sapnet.streaks import DEFAULT_MASK_THRESHOLD, rain_score, streak_mask

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


class TestStreakMask:
    @pytest.mark.parametrize("threshold", [0, 1, DEFAULT_MASK_THRESHOLD, 254, 255])
    def test_marks_what_is_above_the_threshold(self, threshold):
        mask = streak_mask(RAMP, threshold)
        assert mask.dtype == np.uint8
        assert mask.shape == RAMP.shape
        assert np.array_equal(mask == 255, threshold < RAMP)
        assert np.array_equal(mask == 0, threshold >= RAMP)


class TestRainScore:
    @pytest.mark.parametrize(("value", "score"), [(0, 0.0), (16, 0.25), (64, 1.0), (255, 1.0)])
    def test_of_an_even_plane(self, value, score):
        assert rain_score(np.full((17, 20), value, np.uint8)) == score
