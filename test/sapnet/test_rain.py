"""Synthetic rain: determinism, size, brightness, direction."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sapnet.rain import RAIN_PRESETS, NoiseLayer, RainConfig, RainSynthesizer, StreakLayer

LAYER = StreakLayer(count=100, length=0.2, width=0.01, brightness=100)
NOISE = NoiseLayer(cover=0.2, length=0.06, width=0.004, brightness=60)


def luma(frame: np.ndarray) -> np.ndarray:
    return frame @ np.array([0.114, 0.587, 0.299])


def scene(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("rain", [*RAIN_PRESETS, RainConfig((NOISE,))])
def test_equal_seed_and_index_give_equal_rain(rain: str | RainConfig) -> None:
    clean = scene(60, 80)
    rainy, strength = RainSynthesizer(rain, 60, 80, seed=3).add(clean, 7)
    again, strength_again = RainSynthesizer(rain, 60, 80, seed=3).add(clean, 7)
    np.testing.assert_array_equal(rainy, again)
    np.testing.assert_array_equal(strength, strength_again)


@pytest.mark.parametrize("blend", ["add", "screen"])
@pytest.mark.parametrize("size", [(16, 16), (97, 41), (120, 161)])
@pytest.mark.parametrize("layer", [LAYER, NOISE])
def test_rain_never_darkens(blend: str, size: tuple[int, int], layer: StreakLayer | NoiseLayer) -> None:
    clean = scene(*size)
    rainy, strength = RainSynthesizer(RainConfig((layer,), blend=blend), *size, seed=1).add(clean, 0)
    assert rainy.dtype == strength.dtype == np.uint8
    assert rainy.shape == clean.shape
    assert strength.shape == size
    assert (rainy >= clean).all()
    assert (rainy > clean).any()
    np.testing.assert_array_equal(rainy[strength == 0], clean[strength == 0])


@pytest.mark.parametrize("angle", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("layer", [LAYER, NOISE])
def test_streaks_fall_in_the_configured_direction(angle: float, layer: StreakLayer | NoiseLayer) -> None:
    config = RainConfig((layer,), directions=(angle, angle), spread=0.0)
    strength = RainSynthesizer(config, 200, 300, seed=3).strength(0).astype(np.float64)
    across = cv2.Sobel(strength, cv2.CV_64F, 1, 0)
    along = cv2.Sobel(strength, cv2.CV_64F, 0, 1)
    # The structure tensor's main direction is across the streaks.
    tilt = 0.5 * np.degrees(np.arctan2(2 * (across * along).sum(), (across**2 - along**2).sum()))
    assert -tilt == pytest.approx(angle, abs=2.0)


@pytest.mark.parametrize("preset", RAIN_PRESETS)
def test_rain_covers_the_same_share_at_every_size(preset: str) -> None:
    shares = [
        np.mean([(RainSynthesizer(preset, *size, seed=seed).strength(0) > 10).mean() for seed in range(3)])
        for size in [(240, 320), (720, 1280), (480, 320)]
    ]
    assert max(shares) - min(shares) < 0.06


def test_flat_streaks_have_one_brightness_and_hard_edges() -> None:
    flat = StreakLayer(count=200, length=0.2, width=0.02, brightness=70, flat=True)
    strength = RainSynthesizer(RainConfig((flat,)), 120, 160, seed=1).strength(0)
    assert set(np.unique(strength)) == {0, 70}
    layers = RainConfig((flat, StreakLayer(count=100, length=0.2, width=0.02, brightness=30, flat=True)))
    assert set(np.unique(RainSynthesizer(layers, 120, 160, seed=1).strength(0))) == {0, 30, 70, 100}


@pytest.mark.parametrize("size", [(240, 320), (480, 640)])
def test_noise_covers_the_share_that_it_says_up_to_its_ceiling(size: tuple[int, int]) -> None:
    bright = NoiseLayer(cover=0.3, length=0.05, width=0.006, brightness=200, ceiling=90, fan=10)
    strength = RainSynthesizer(RainConfig((bright,)), *size, seed=1).strength(0)
    assert (strength > 0).mean() == pytest.approx(0.3, abs=0.05)
    assert strength.max() == 90


def test_mist_takes_contrast_before_streaks_fall() -> None:
    clean = np.dstack([np.tile(np.array([10, 250], np.uint8), (40, 20))] * 3)
    thin = StreakLayer(count=1e-6, length=0.1, width=0.01, brightness=10)
    misty, _ = RainSynthesizer(RainConfig((thin,), mist=0.5), 40, 40).add(clean, 0)
    assert set(np.unique(misty)) == {100, 220}


def test_a_part_of_an_image_has_the_streaks_of_the_whole() -> None:
    def across(image_height: float) -> float:
        parts = [RainSynthesizer(config, 100, 100, seed, image_height).strength(0) > 20 for seed in range(20)]
        return float(np.sum(parts) / np.count_nonzero(np.diff(np.array(parts, int), axis=2) > 0))

    config = RainConfig((LAYER,), directions=(0.0, 0.0))
    assert across(800) > 2 * across(200)


@pytest.mark.parametrize(
    ("preset", "dataset", "share_tolerance", "psnr_tolerance"),
    [("light", "rain100l_dev", 0.03, 1.0), ("heavy", "heavy_dev", 0.15, 4.0)],
)
def test_presets_resemble_the_datasets_they_stand_for(
    shared_data: Path, preset: str, dataset: str, share_tolerance: float, psnr_tolerance: float
) -> None:
    figures = {"real": [], "synthetic": []}
    for index, path in enumerate(sorted((shared_data / dataset / "clean").iterdir())[:10]):
        clean = cv2.imread(str(path))
        real = cv2.imread(str(next((shared_data / dataset / "rainy").glob(path.stem + ".*"))))
        synthetic, _ = RainSynthesizer(preset, *clean.shape[:2], seed=index).add(clean, 0)
        for kind, rainy in (("real", real), ("synthetic", synthetic)):
            share = (luma(rainy) - luma(clean) > 10).mean()
            figures[kind].append((share, cv2.PSNR(rainy, clean)))
    real_share, real_psnr = np.mean(figures["real"], axis=0)
    share, psnr = np.mean(figures["synthetic"], axis=0)
    assert share == pytest.approx(real_share, abs=share_tolerance)
    assert psnr == pytest.approx(real_psnr, abs=psnr_tolerance)
