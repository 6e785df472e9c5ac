"""Synthetic rain on photographs: the same for the same seed, exact masks, every photograph in turn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sapnet.errors import ImageFormatError
from training.datasets.augment import Augmentation, augment_scene, compress
from training.datasets.curriculum import MIXED, draw_rain
from training.datasets.synthetic import SyntheticRain, rain_on
from training.metrics import true_streaks

PLAIN = Augmentation(mirror=0, gamma=0, noise=0, jpeg=0)


def test_a_sample_is_decided_by_seed_and_number(photographs: Path) -> None:
    one, again = (SyntheticRain(photographs, crop=40, seed=7, length=20) for _ in range(2))
    other = SyntheticRain(photographs, crop=40, seed=8, length=20)
    for index in (13, 2):
        assert torch.equal(one[index]["rainy"], again[index]["rainy"])
    assert any(not torch.equal(one[index]["clean"], other[index]["clean"]) for index in range(5))
    assert not torch.equal(one[0]["rainy"], one[5]["rainy"])
    with pytest.raises(IndexError):
        one[20]


def test_masks_are_exact(photographs: Path) -> None:
    sample = SyntheticRain(photographs, "medium", crop=64, augmentation=PLAIN).make(1)
    assert np.array_equal(sample.streaks, true_streaks(sample.rainy, sample.clean))


@pytest.mark.parametrize("kind", ["light", "medium", "heavy"])
def test_rain_is_of_its_kind(kind: str) -> None:
    clean = np.full((160, 200, 3), 90, np.uint8)
    rng = np.random.default_rng(0)
    share = np.mean([rain_on(clean, draw_rain(kind, rng), seed).streaks.mean() for seed in range(30)])
    low, high = {"light": (0.06, 0.35), "medium": (0.25, 0.65), "heavy": (0.65, 0.95)}[kind]
    assert low < share < high


def test_mixed_rain_holds_every_kind_and_dry_samples() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw_rain("mixed", rng) for _ in range(600)]
    dry = sum(rain is None for rain in drawn) / len(drawn)
    assert abs(dry - MIXED["dry"]) < 0.04
    assert any(rain and rain.blend == "screen" for rain in drawn)
    assert any(rain and rain.mist for rain in drawn)
    assert any(rain and any(getattr(layer, "flat", False) for layer in rain.layers) for rain in drawn)
    assert sum(MIXED.values()) == pytest.approx(1)


def test_photographs_that_cannot_be_used_are_all_listed(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(ImageFormatError, match=r"(?s)damaged\.jpg.*small\.png is 20x20, expected at least 32x32"):
        SyntheticRain(tmp_path, crop=32)


def test_augmentations_do_what_they_say() -> None:
    clean = np.arange(16 * 20 * 3, dtype=np.uint8).reshape(16, 20, 3)
    rng = np.random.default_rng(0)
    assert np.array_equal(augment_scene([clean], PLAIN, rng)[0], clean)
    assert np.array_equal(compress(clean, PLAIN, rng), clean)
    (mirrored,) = augment_scene([clean], Augmentation(mirror=1, gamma=0, noise=0, jpeg=0), rng)
    assert np.array_equal(mirrored, clean[::-1, ::-1])
    gamma = augment_scene([clean], Augmentation(mirror=0, gamma=1, noise=0), rng)[0].astype(int)
    order = np.argsort(clean, axis=None)
    assert (np.diff(gamma.ravel()[order]) >= 0).all()
    (noisy,) = augment_scene([clean], Augmentation(mirror=0, gamma=0, noise=1, noise_sigma=20), rng)
    assert not np.array_equal(noisy, clean)
    compressed = compress(clean, Augmentation(jpeg=1), rng)
    assert compressed.shape == clean.shape
    assert not np.array_equal(compressed, clean)
    with pytest.raises(ValueError, match="jpeg is a probability"):
        Augmentation(jpeg=1.5)
