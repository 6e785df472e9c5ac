"""The samples of a run as one numbered stream."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch

from sapnet.errors import ImageFormatError
from training.config import DataConfig
from training.datasets.stream import FromStep, make_loader, make_stream


def config(photographs: Path | None, pairs: Path | None = None, **changes: int) -> DataConfig:
    values = {"crop": 32, "final_crop": 40, "batch": 2, "workers": 0, **changes}
    return DataConfig(
        clean=str(photographs) if photographs else "", paired=(str(pairs),) if pairs else (), validation=(), **values
    )


def test_crops_grow_in_the_last_tenth(photographs: Path) -> None:
    data = config(photographs)
    sides = [batch["rainy"].shape[-1] for batch in make_loader(make_stream(data, 20, 1, 0), data, 0, 0, 1)]
    assert sides == [32] * 18 + [40] * 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_later_start_yields_the_same_batches(photographs: Path, workers: int) -> None:
    data = config(photographs, workers=workers)
    stream = make_stream(data, 6, 1, seed=3)
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
        stream = make_stream(data, 4, 1, 0)
        samples = [stream[index] for index in range(8)]
        assert {sample["rainy"].shape for sample in samples} == {(3, 32, 32)}
        assert all((sample["rainy"] >= sample["clean"] - 0.1).all() for sample in samples)
    assert all(sample.keys() == {"rainy", "clean", "streaks"} for sample in samples)


def test_pairs_smaller_than_a_crop_are_refused(pairs: Path) -> None:
    with pytest.raises(ImageFormatError, match="expected at least 80x80"):
        make_stream(config(None, pairs, crop=80, final_crop=80), 10, 1, 0)
