"""PSNR, SSIM and mask figures against plain restatements and known values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from picture_builders import flat
from training.metrics import count_pixels, mask_figures, ssim, streak_strength, true_streaks

MASKS = arrays(np.bool_, (6, 7))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class TestSsim:
    def restated(self, one: np.ndarray, other: np.ndarray) -> float:
        """Wang et al. 2004: every 11x11 window that lies in the plane, weighted by a Gaussian."""
        ramp = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
        weights = np.outer(ramp, ramp) / ramp.sum() ** 2
        x, y = (np.lib.stride_tricks.sliding_window_view(plane, (11, 11)) for plane in (one, other))
        mean_x, mean_y = (np.einsum("hwij,ij->hw", window, weights) for window in (x, y))
        xx, yy, xy = (np.einsum("hwij,ij->hw", product, weights) for product in (x * x, y * y, x * y))
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        above = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
        below = (mean_x**2 + mean_y**2 + c1) * (xx - mean_x**2 + yy - mean_y**2 + c2)
        return float((above / below).mean())

    def test_is_the_published_formula_and_on_rgb_its_mean_over_channels(self):
        one, other = noise(24, 31), noise(24, 31, seed=1) // 2
        other[..., 0] = one[..., 0]
        of_channels = [self.restated(one[..., c].astype(float), other[..., c].astype(float)) for c in range(3)]
        assert of_channels[0] == pytest.approx(1.0)
        assert ssim(one, other) == pytest.approx(np.mean(of_channels), abs=1e-6)
        assert ssim(one[..., 1], other[..., 1]) == pytest.approx(of_channels[1], abs=1e-6)


class TestTrueStreaks:
    def test_gray_rain_counts_above_ten_levels(self):
        for level in range(245):
            clean = flat(level, 1, 1)
            assert not true_streaks(flat(level + 10, 1, 1), clean).any()
            assert true_streaks(flat(level + 11, 1, 1), clean).all()

    @pytest.mark.parametrize(("bgr", "streak"), [((100, 0, 0), True), ((0, 17, 0), False), ((0, 18, 0), True)])
    def test_colours_count_by_their_luma(self, bgr, streak):
        mask = true_streaks(flat(bgr, 16, 16), flat(0, 16, 16))
        assert mask.shape == (16, 16)
        assert (mask == streak).all()


class TestStreakStrength:
    def test_is_what_the_deployed_network_computes(self):
        rainy, derained = noise(16, 20), noise(16, 20, seed=1)
        luma = [image.astype(float) @ (0.114, 0.587, 0.299) for image in (rainy, derained)]
        strength = streak_strength(rainy, derained)
        assert (strength.shape, strength.dtype) == ((16, 20), np.uint8)
        assert np.abs(strength - np.clip(luma[0] - luma[1], 0, None)).max() <= 0.5 + 1e-9


class TestMasks:
    def test_figures_of_a_known_case(self):
        predicted = np.array([True, True, True, False, False, False, False, False])
        truth = np.array([True, True, False, True, False, False, False, False])
        counts = count_pixels(predicted, truth)
        assert counts.tolist() == [2, 1, 1, 4]
        assert mask_figures(counts) == pytest.approx(
            {
                "precision": 2 / 3,
                "recall": 2 / 3,
                "f1": 2 / 3,
                "matthews": (2 * 4 - 1) / 15,
                "f1_all_ones": 2 * 3 / (8 + 3),
                "streak_share": 3 / 8,
            }
        )

    @given(MASKS, MASKS)
    def test_matthews_is_the_correlation_of_the_masks(self, predicted, truth):
        got = mask_figures(count_pixels(predicted, truth))["matthews"]
        if predicted.all() or truth.all() or not predicted.any() or not truth.any():
            assert got == 0.0
        else:
            expected = np.corrcoef(predicted.ravel(), truth.ravel())[0, 1]
            assert got == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("value", [False, True])
    def test_constant_masks_divide_by_nothing(self, value):
        mask = np.full((4, 4), value)
        figures = mask_figures(count_pixels(mask, ~mask))
        assert [figures[name] for name in ("precision", "recall", "f1", "matthews")] == [0, 0, 0, 0]
