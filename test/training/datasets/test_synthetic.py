"""Kinds of synthetic rain, streaks of pairs, and what varies besides rain."""

from __future__ import annotations

import numpy as np
import pytest

from picture_builders import flat
from sapnet.rain import RainSynthesizer
from training.augment import augment_scene, compress, streak_layer
from training.config import Augmentation
from training.datasets.curriculum import MIXED, draw_rain, vary_rain
from training.metrics import true_streaks

PLAIN = Augmentation(mirror=0, gamma=0, noise=0, develop=0, jpeg=0)


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("light", 0.06, 0.35), ("medium", 0.25, 0.65), ("heavy", 0.65, 0.95)]
)
def test_rain_is_of_its_kind(kind: str, low: float, high: float) -> None:
    clean = flat(90, 160, 200)
    rng = np.random.default_rng(0)
    drawn = [RainSynthesizer(draw_rain(kind, rng), 160, 200, seed) for seed in range(15)]
    share = np.mean([true_streaks(rain.add(clean, 0)[0], rain.add_mist(clean)).mean() for rain in drawn])
    assert low < share < high


def test_mixed_rain_holds_every_kind_and_dry_samples() -> None:
    rng = np.random.default_rng(1)
    rains = [rain for _ in range(600) if (rain := draw_rain("mixed", rng))]
    assert abs(1 - len(rains) / 600 - MIXED["dry"]) < 0.04
    assert any(rain.mist for rain in rains)
    assert any(getattr(layer, "flat", False) for rain in rains for layer in rain.layers)
    assert sum(MIXED.values()) == pytest.approx(1)
    # Varied, it is finer or coarser, and often screened.
    varied = [vary_rain(rain, rng) for rain in rains]
    widths = [other.layers[0].width / rain.layers[0].width for rain, other in zip(rains, varied, strict=True)]
    assert min(widths) < 0.7 < 1.4 < max(widths)
    assert 0 < sum(rain.blend == "screen" for rain in rains) < 120 < sum(rain.blend == "screen" for rain in varied)


def test_noise_and_jpeg_change_the_image() -> None:
    clean = np.arange(16 * 20 * 3, dtype=np.uint8).reshape(16, 20, 3)
    rng = np.random.default_rng(0)
    assert np.array_equal(augment_scene([clean], PLAIN, rng)[0], clean)
    assert np.array_equal(compress(clean, PLAIN, rng), clean)
    (noisy,) = augment_scene([clean], Augmentation(mirror=0, gamma=0, noise=1, noise_sigma=20), rng)
    assert not np.array_equal(noisy, clean)
    compressed = compress(clean, Augmentation(jpeg=1), rng)
    assert compressed.shape == clean.shape
    assert not np.array_equal(compressed, clean)
    with pytest.raises(ValueError, match="jpeg is a probability"):
        Augmentation(jpeg=1.5)


def test_streaks_are_found_where_some_channels_or_all_are_clipped() -> None:
    clean = np.full((4, 4, 3), (250, 120, 30), np.uint8)
    clean[0] = 250
    assert (streak_layer(np.minimum(clean + 100.0, 255).astype(np.uint8), clean) == 100).all()
