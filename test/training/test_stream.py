"""The samples of a run as one numbered stream, from photographs, pairs and the streaks of pairs."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from picture_builders import flat, write_pair
from sapnet.errors import ImageFormatError
from sapnet.media.pictures import write_image
from training.config import Augmentation, DataConfig
from training.stream import Stream, make_loader

PLAIN = Augmentation(mirror=0, gamma=0, noise=0, develop=0, jpeg=0, dry=0)


def stream_of(
    photographs: Path | None, pairs: Path | None = None, steps: int = 4, seed: int = 0, **data: Any
) -> Stream:
    values: dict[str, Any] = {"crop": 32, "final_crop": 40, "batch": 2, "workers": 0, "validation": (), **data}
    clean, paired = str(photographs or ""), (str(pairs),) if pairs else ()
    return Stream(DataConfig(clean=clean, paired=paired, **values), steps, 1, seed)


def levels(stream: Stream, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The rainy and the clean image of a sample, int (3, crop, crop) from 0 to 255."""
    rainy, clean = (np.rint(255 * stream[index][name].numpy()).astype(int) for name in ("rainy", "clean"))
    return rainy, clean


def test_a_later_start_yields_the_same_batches(photographs: Path) -> None:
    whole = list(make_loader(stream_of(photographs, steps=6, seed=3), 0, 0, 1))
    rest = make_loader(stream_of(photographs, steps=6, seed=3), 4, 0, 1)
    assert len(whole) == 6
    assert all(torch.equal(one["rainy"], other["rainy"]) for one, other in zip(whole[4:], rest, strict=False))


def test_processes_share_the_stream(photographs: Path) -> None:
    stream = stream_of(photographs, steps=12)
    numbers = [list(make_loader(stream, 1, rank, 3).sampler) for rank in range(3)]
    assert sorted(chain(*(of_rank[:6] for of_rank in numbers))) == list(range(6, 24))
    assert {len(of_rank) for of_rank in numbers} == {8}


def test_crops_are_larger_in_the_last_tenth(photographs: Path, pairs: Path) -> None:
    stream = stream_of(photographs, pairs, steps=10)
    assert [stream[index]["rainy"].shape[-1] for index in range(len(stream))] == [32] * 18 + [40] * 2


def test_each_epoch_shows_every_photograph_in_rain_of_its_own(tmp_path: Path) -> None:
    for level in (10, 60, 110):
        write_image(tmp_path / f"{level}.png", flat(level, 40, 40))
    stream = stream_of(tmp_path, rain="heavy", augmentation=PLAIN)
    shown = [levels(stream, index) for index in range(6)]
    seen = [int(clean.max()) for _, clean in shown]
    assert sorted(seen[:3]) == sorted(seen[3:]) == [10, 60, 110]
    assert len({(rainy - clean).tobytes() for rainy, clean in shown}) == 6
    others = [levels(stream_of(tmp_path, rain="heavy", augmentation=PLAIN, seed=1), index)[0] for index in range(3)]
    assert not any(np.array_equal(rainy, other) for (rainy, _), other in zip(shown, others, strict=False))


@pytest.mark.parametrize(("paired_share", "share"), [(0.0, 2 / 3), (0.2, 0.4)])
def test_every_pair_turns_up_beside_photographs(
    photographs: Path, tmp_path: Path, paired_share: float, share: float
) -> None:
    for name, of_levels in (("one", (10, 60, 110, 160)), ("two", (35, 85))):
        for level in of_levels:
            write_pair(tmp_path / "sets" / name, f"{level}.png", flat(level + 20, 40, 40), flat(level, 40, 40))
    data = {"rain": "dry", "augmentation": PLAIN, "paired_share": paired_share}
    stream = stream_of(photographs, tmp_path / "sets", steps=60, **data)
    found = [
        round(float(sample["clean"].mean()) * 255)
        for sample in (stream[index] for index in range(108))
        if not torch.equal(sample["rainy"], sample["clean"])
    ]
    assert set(found) == {10, 60, 110, 160, 35, 85}
    assert abs(len(found) / 108 - share) < 0.15
    with pytest.raises(ValueError, match=r"data\.paired_share 0\.5 of 2 paired sets leaves nothing"):
        stream_of(photographs, tmp_path / "sets", paired_share=0.5)


class TestPairs:
    """A pair that brightens to the right and downwards, in rain of 20."""

    clean = flat(0, 40, 40) + (np.arange(40)[:, None] + np.arange(60, 140, 2)).astype(np.uint8)[..., None]

    def sample(self, tmp_path: Path, **changes: float) -> tuple[np.ndarray, np.ndarray]:
        write_pair(tmp_path, "1.png", self.clean + 20, self.clean)
        augmentation = Augmentation(**{**vars(PLAIN), **changes})
        return levels(stream_of(None, tmp_path, crop=40, augmentation=augmentation), 0)

    def test_are_mirrored_alike(self, tmp_path: Path) -> None:
        rainy, clean = self.sample(tmp_path, mirror=1)
        assert (rainy - clean == 20).all()
        assert np.array_equal(clean[0], self.clean[::-1, ::-1, 0])

    def test_have_one_gamma(self, tmp_path: Path) -> None:
        rainy, clean = self.sample(tmp_path, gamma=1)
        before = np.stack([self.clean + 20, self.clean])[..., 0]
        changes = set(zip(before.ravel().tolist(), np.stack([rainy, clean])[:, 0].ravel().tolist(), strict=True))
        assert len(changes) == len(np.unique(before))  # equal levels are changed alike
        assert any(level != now for level, now in changes)

    def test_have_dry_ones_among_them_and_are_developed_alike(self, tmp_path: Path) -> None:
        rainy, clean = self.sample(tmp_path, dry=1, develop=1)
        assert (rainy == clean).all()
        assert (clean[0] != self.clean[..., 0]).any()


class TestStreaksOfPairs:
    def test_fall_on_photographs_in_their_share(self, photographs: Path, tmp_path: Path) -> None:
        clean = np.random.default_rng(0).integers(0, 190, (90, 80, 3)).astype(np.uint8)
        rainy = clean.copy()
        rainy[:, ::8] += 60
        write_pair(tmp_path, "1.png", rainy, clean)
        data = {"rain": "dry", "augmentation": PLAIN, "crop": 48, "final_crop": 48, "streaks": (str(tmp_path),)}

        def added(share: float) -> list[np.ndarray]:
            stream = stream_of(photographs, steps=20, streaks_share=share, **data)
            return [rainy - clean for rainy, clean in (levels(stream, index) for index in range(40))]

        laid = added(1.0)
        for rain in laid:
            assert rain.min() >= 0
            # Streaks from top to bottom, neither everywhere nor nowhere, as strong as they were, give or take.
            assert 30 < np.percentile(rain, 99) <= 80
            assert 0.02 < (rain > 10).mean() < 0.5
        assert len({rain.tobytes() for rain in laid}) == 40
        assert 8 < sum(rain.any() for rain in added(0.5)) < 32

    def test_must_be_as_large_as_crops(self, photographs: Path, tmp_path: Path) -> None:
        write_pair(tmp_path, "1.png", flat(90, 36, 36), flat(50, 36, 36))
        with pytest.raises(ImageFormatError, match="36x36, expected at least 40x40"):
            stream_of(photographs, streaks=(str(tmp_path),))
        with pytest.raises(ValueError, match=r"data\.streaks needs data\.clean"):
            DataConfig(clean="", paired=("pairs",), streaks=("pairs",))


def test_photographs_that_cannot_be_used_are_all_listed(tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", flat(0, 20, 20))
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(ImageFormatError, match=r"(?s)damaged\.jpg.*small\.png is 20x20, expected at least 40x40"):
        stream_of(tmp_path)
