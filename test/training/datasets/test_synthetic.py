"""Synthetic rain on photographs: the same for the same seed, exact masks, every photograph in turn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sapnet.errors import ImageFormatError
from sapnet.rain import RainConfig, StreakLayer
from training.datasets.augment import Augmentation, augment_scene, compress
from training.datasets.curriculum import MIXED, RAIN_KINDS, draw_rain
from training.datasets.synthetic import SyntheticRain, find_photographs, rain_on
from training.metrics import true_streaks

PLAIN = Augmentation(mirror=0, gamma=0, noise=0, jpeg=0)


def test_samples_have_one_form(photographs: Path) -> None:
    sample = SyntheticRain(photographs, "heavy", crop=48)[3]
    assert sample["rainy"].shape == sample["clean"].shape == (3, 48, 48)
    assert sample["rainy"].dtype == torch.float32
    assert 0 <= sample["rainy"].min() <= sample["rainy"].max() <= 1
    assert sample["streaks"].shape == (48, 48)
    assert sample["streaks"].dtype == torch.bool
    assert sample["streaks"].float().mean() > 0.05


def test_a_sample_is_decided_by_seed_and_number(photographs: Path) -> None:
    one, again = (SyntheticRain(photographs, crop=40, seed=7, length=20) for _ in range(2))
    other = SyntheticRain(photographs, crop=40, seed=8, length=20)
    for index in (13, 2):
        assert torch.equal(one[index]["rainy"], again[index]["rainy"])
    assert any(not torch.equal(one[index]["clean"], other[index]["clean"]) for index in range(5))
    assert not torch.equal(one[0]["rainy"], one[5]["rainy"])
    with pytest.raises(IndexError):
        one[20]


def test_every_photograph_comes_once_in_an_epoch(tmp_path: Path) -> None:
    for value in range(6):
        cv2.imwrite(str(tmp_path / f"{value}.png"), np.full((40, 40, 3), value * 10, np.uint8))
    data = SyntheticRain(tmp_path, "dry", crop=32, length=12, augmentation=PLAIN)
    shown = [round(float(data[index]["clean"].mean() * 25.5)) for index in range(12)]
    assert sorted(shown[:6]) == sorted(shown[6:]) == list(range(6))
    assert shown[:6] != shown[6:]


def test_dry_samples_are_untouched(photographs: Path) -> None:
    sample = SyntheticRain(photographs, "dry", crop=48, augmentation=PLAIN)[0]
    assert torch.equal(sample["rainy"], sample["clean"])
    assert not sample["streaks"].any()


def test_masks_are_exact(photographs: Path) -> None:
    sample = SyntheticRain(photographs, "medium", crop=64, augmentation=PLAIN).make(1)
    assert np.array_equal(sample.streaks, true_streaks(sample.rainy, sample.clean))


def test_mist_is_no_streak() -> None:
    layer = StreakLayer(count=20, length=0.1, width=0.03, brightness=100)
    clean = np.full((60, 60, 3), 40, np.uint8)
    streaks, misty = (rain_on(clean, RainConfig((layer,), mist=mist), 0) for mist in (0.0, 0.15))
    # The veil alone adds 22.
    assert (misty.rainy >= clean + 20).all()
    assert 0 < misty.streaks.mean() < 0.3
    assert np.array_equal(misty.streaks, streaks.streaks)


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
    assert any(rain and any(layer.flat for layer in rain.layers) for rain in drawn)
    assert sum(MIXED.values()) == pytest.approx(1)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="unknown kind of rain 'snow'; expected one of mixed, dry, light"):
        draw_rain("snow", np.random.default_rng())
    assert set(RAIN_KINDS) == {"mixed", "dry", "light", "medium", "heavy"}


def test_photographs_that_cannot_be_used_are_all_listed(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(ImageFormatError, match=r"(?s)damaged\.jpg.*small\.png is 20x20, expected at least 32x32"):
        SyntheticRain(tmp_path, crop=32)


def test_folders_without_photographs_are_named(tmp_path: Path) -> None:
    (tmp_path / ".thumbnails").mkdir()
    for hidden in ("._1.jpg", ".thumbnails/1.jpg"):
        (tmp_path / hidden).touch()
    with pytest.raises(ImageFormatError, match="holds no images"):
        find_photographs(tmp_path)
    with pytest.raises(ImageFormatError, match="no such folder"):
        find_photographs(tmp_path / "nowhere")


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
