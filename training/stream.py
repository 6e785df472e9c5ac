"""The samples of a whole run as one numbered stream: step k is the same whether the run was interrupted or not."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from sapnet.images.frame import Frame, to_tensor
from sapnet.media.sources import read_image
from training.config import DataConfig
from training.datasets.augment import Augmentation, augment_scene, compress, draw_window
from training.datasets.cache import ImageCache
from training.datasets.layers import StreakLayers
from training.datasets.paired import ImagePair, check_pairs, find_sets, read_pair
from training.datasets.synthetic import Photographs, Sample, SyntheticRain
from training.metrics import true_streaks

# Crops grow in the last tenth of the steps.
_FINAL_SHARE = 10
# Sets its random numbers apart from those that choose the data set, which would else choose among the pairs, too.
_PAIRED = 1


class PairedCrops(Dataset[Sample]):
    """Crops of rainy and clean pairs, augmented alike; items as of SyntheticRain.

    pairs: each at least ``crop`` pixels on both sides. read: gives the images of files.
    """

    def __init__(
        self,
        pairs: Sequence[ImagePair],
        crop: int,
        seed: int,
        length: int,
        augmentation: Augmentation | None = None,
        read: Callable[[Path], Frame] = read_image,
    ) -> None:
        self.pairs, self.crop, self.seed, self.length = list(pairs), crop, seed, length
        self.augmentation, self.read = augmentation or Augmentation(), read

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index, _PAIRED])
        rainy, clean = read_pair(self.pairs[int(rng.integers(len(self.pairs)))], self.read)
        window = draw_window(rainy, self.crop, self.crop, rng)
        if rng.random() < self.augmentation.dry:
            rainy = clean
        rainy, clean = augment_scene([rainy[window], clean[window]], self.augmentation, rng)
        return {
            "rainy": to_tensor(compress(rainy, self.augmentation, rng))[0],
            "clean": to_tensor(clean)[0],
            "streaks": torch.from_numpy(true_streaks(rainy, clean)),
        }


class Mixture(Dataset[Sample]):
    """Each sample from one of several data sets of equal length, drawn by its number with the sets' shares."""

    def __init__(self, datasets: Sequence[Dataset[Sample]], shares: Sequence[float], seed: int, length: int) -> None:
        self.datasets, self.shares, self.seed, self.length = list(datasets), list(shares), seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        choice = np.random.default_rng([self.seed, index]).choice(len(self.datasets), p=self.shares)
        return self.datasets[int(choice)][index]


class FromStep(Sampler[int]):
    """Sample numbers of one process, from the ``step`` that the run has come to on to the end.

    Processes take turns by sample. The length is that of the whole run, as Lightning counts a resumed one.
    """

    def __init__(self, total: int, batch: int, step: int, rank: int, processes: int) -> None:
        self.total, self.batch, self.step, self.rank, self.processes = total, batch, step, rank, processes

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.step * self.batch * self.processes + self.rank, self.total, self.processes))

    def __len__(self) -> int:
        return self.total // self.processes


@dataclass(frozen=True)
class Sources:
    """What a run learns from: photographs, the streaks to lay on them, and the pairs of each set by its name.

    read: gives the images of files.
    """

    photographs: Photographs | None
    layers: StreakLayers | None
    pairs: Mapping[str, Sequence[ImagePair]]
    read: Callable[[Path], Frame]


def find_sources(config: DataConfig) -> Sources:
    """Every image of them is read once. Raises ImageFormatError for data that cannot be trained on."""
    least = max(config.crop, config.final_crop)
    pairs, streaks = find_sets(config.paired), find_sets(config.streaks)
    for found in [*pairs.values(), *streaks.values()]:
        check_pairs(found, least)
    cache = ImageCache()
    photographs = Photographs(Path(config.clean), least, cache) if config.clean else None
    layers = StreakLayers([*chain(*streaks.values())], read_image, config.streaks_share) if streaks else None
    return Sources(photographs, layers, pairs, cache.read)


def make_stream(sources: Sources, config: DataConfig, steps: int, processes: int, seed: int) -> Dataset[Sample]:
    """All samples of a run in order: ``steps * batch * processes`` of them, the last tenth larger."""
    large = steps // _FINAL_SHARE
    parts = [(steps - large, config.crop, seed), (large, config.final_crop, seed + 1)]
    streams: list[Dataset[Sample]] = []
    for part_steps, crop, part_seed in parts:
        if length := part_steps * config.batch * processes:
            datasets: list[Dataset[Sample]] = [
                PairedCrops(pairs, crop, part_seed, length, config.augmentation, sources.read)
                for pairs in sources.pairs.values()
            ]
            if sources.photographs:
                datasets.append(
                    SyntheticRain(
                        sources.photographs, config.rain, crop, part_seed, length, config.augmentation, sources.layers
                    )
                )
            shares = _shares(len(sources.pairs), sources.photographs is not None, config.paired_share)
            streams.append(Mixture(datasets, shares, part_seed, length))
    return ConcatDataset(streams)


def _shares(paired: int, photographs: bool, each: float) -> list[float]:
    """Of each paired set and, if there are some, of the photographs. Raises ValueError."""
    count = paired + photographs
    if not each or not photographs:
        return [1 / count] * count
    if (rest := 1 - paired * each) <= 0:
        raise ValueError(f"data.paired_share {each:g} of {paired} paired sets leaves nothing for the photographs")
    return [*[each] * paired, rest]


def make_loader(
    stream: Dataset[Sample], config: DataConfig, step: int, rank: int, processes: int
) -> DataLoader[Sample]:
    """Batches of one process from ``step`` on."""
    total = len(stream)  # type: ignore[arg-type]
    return DataLoader(
        stream,
        batch_size=config.batch,
        sampler=FromStep(total, config.batch, step, rank, processes),
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
        **worker_options(config.workers),
    )


def worker_options(workers: int) -> dict[str, Any]:
    """Options of a DataLoader for ``workers`` processes that prepare samples; 0 prepares them in between."""
    if not workers:
        return {"num_workers": 0}
    return {
        "num_workers": workers,
        "persistent_workers": True,
        # A forked worker hangs where OpenCV's threads have run before.
        "multiprocessing_context": "spawn",
        "worker_init_fn": _start_worker,
    }


def _start_worker(_: int) -> None:
    """Workers share the cores with training; OpenCV would use all of them in each."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    # Ctrl-C, and what service managers and schedulers stop a run with, reach the whole group of processes. The run
    # ends in good order after its step and takes its workers along: they end with it even where it is killed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
