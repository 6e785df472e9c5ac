"""The samples of a run as one numbered stream."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from training.config import DataConfig
from training.datasets.augment import Augmentation
from training.datasets.synthetic import Sample
from training.stream import FromStep, Mixture, find_sources, make_loader, make_stream

PLAIN = Augmentation(mirror=0, gamma=0, noise=0, jpeg=0, dry=0)


def config(photographs: Path | None, pairs: Path | None = None, **changes: Any) -> DataConfig:
    values: dict[str, Any] = {"crop": 32, "final_crop": 40, "batch": 2, "workers": 0, **changes}
    return DataConfig(
        clean=str(photographs) if photographs else "", paired=(str(pairs),) if pairs else (), validation=(), **values
    )


def stream_of(data: DataConfig, steps: int, seed: int = 0) -> Dataset[Sample]:
    return make_stream(find_sources(data), data, steps, 1, seed)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_later_start_yields_the_same_batches(photographs: Path, workers: int) -> None:
    data = config(photographs, workers=workers)
    stream = stream_of(data, 6, seed=3)
    whole = list(make_loader(stream, config(photographs), 0, 0, 1))
    rest = list(make_loader(stream, data, 4, 0, 1))
    assert len(rest) == 2
    assert all(torch.equal(one["rainy"], other["rainy"]) for one, other in zip(whole[4:], rest, strict=True))


def test_processes_share_the_stream(photographs: Path) -> None:
    numbers = [list(FromStep(24, 2, 1, rank, 3)) for rank in range(3)]
    assert sorted(chain(*numbers)) == list(range(6, 24))
    assert len({len(of_rank) for of_rank in numbers}) == 1


def test_pairs_alone_and_with_photographs(photographs: Path, pairs: Path) -> None:
    for data in (config(None, pairs), config(photographs, pairs)):
        stream = stream_of(data, 4)
        samples = [stream[index] for index in range(8)]
        assert {sample["rainy"].shape for sample in samples} == {(3, 32, 32)}
        assert all((sample["rainy"] >= sample["clean"] - 0.1).all() for sample in samples)
    assert all(sample.keys() == {"rainy", "clean", "streaks"} for sample in samples)


def write_pairs(folder: Path, *levels: int) -> Path:
    """A pair of even images of each level, the rainy one brighter by 20."""
    for part, rain in (("rainy", 20), ("clean", 0)):
        (folder / part).mkdir(parents=True)
        for level in levels:
            cv2.imwrite(str(folder / part / f"{level}.png"), np.full((40, 40, 3), level + rain, np.uint8))
    return folder


def test_every_pair_turns_up_beside_photographs(photographs: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "sets" / "one", 10, 60, 110, 160)
    write_pairs(tmp_path / "sets" / "two", 35, 85)
    data = config(photographs, tmp_path / "sets", rain="dry", augmentation=PLAIN)
    stream = stream_of(data, 60)
    levels = [
        round(float(sample["clean"].mean()) * 255)
        for sample in (stream[index] for index in range(108))
        if not torch.equal(sample["rainy"], sample["clean"])
    ]
    assert set(levels) == {10, 60, 110, 160, 35, 85}
    assert 0.5 < len(levels) / 108 < 0.85


class TestPairs:
    """A pair that brightens to the right and downwards, in rain of 20."""

    def sample(self, tmp_path: Path, **changes: float) -> tuple[np.ndarray, np.ndarray, Sample]:
        rows = np.linspace(0, 40, 40).astype(np.uint8)
        clean = np.repeat((rows[:, None] + np.linspace(60, 160, 40).astype(np.uint8))[..., None], 3, axis=2)
        for part, image in (("rainy", clean + 20), ("clean", clean)):
            (tmp_path / part).mkdir()
            cv2.imwrite(str(tmp_path / part / "1.png"), image)
        augmentation = replace(PLAIN, **changes)
        data = config(None, tmp_path, crop=40, augmentation=augmentation)
        sample = stream_of(data, 1)[0]
        found = (np.rint(255 * sample[name].numpy()).astype(int) for name in ("rainy", "clean"))
        return *found, sample

    def test_are_mirrored_alike(self, tmp_path: Path) -> None:
        rainy, clean, _ = self.sample(tmp_path, mirror=1)
        assert (rainy - clean == 20).all()
        assert (np.diff(clean, axis=2) <= 0).all()
        assert (np.diff(clean, axis=1) <= 0).all()

    def test_have_one_gamma(self, tmp_path: Path) -> None:
        rainy, clean, _ = self.sample(tmp_path, gamma=1)
        of_level: dict[int, set[int]] = {}
        for before, image in ((20, rainy), (0, clean)):
            plain = np.linspace(0, 40, 40).astype(int)[:, None] + np.linspace(60, 160, 40).astype(int) + before
            for level, now in zip(plain.ravel(), image[0].ravel(), strict=True):
                of_level.setdefault(int(level), set()).add(int(now))
        assert all(len(values) == 1 for values in of_level.values())
        assert any(values != {level} for level, values in of_level.items())

    def test_have_dry_ones_among_them(self, tmp_path: Path) -> None:
        rainy, clean, sample = self.sample(tmp_path, dry=1)
        assert (rainy == clean).all()
        assert not sample["streaks"].any()


class Constant(Dataset[float]):
    def __init__(self, value: float) -> None:
        self.value = value

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> float:
        return self.value


def test_a_mixture_has_the_shares_of_its_sets() -> None:
    mixture = Mixture([Constant(0.0), Constant(1.0)], [0.1, 0.9], seed=0, length=1000)
    drawn = [mixture[index] for index in range(1000)]
    assert 0.87 < sum(drawn) / 1000 < 0.93
    assert drawn == [mixture[index] for index in range(1000)]
