"""The samples of a whole run as one numbered stream: step k is the same whether the run was interrupted or not."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler

from sapnet.image import to_tensor
from training.config import DataConfig
from training.datasets.paired import ImagePair, check_pairs, find_pairs, read_pair
from training.datasets.synthetic import Photographs, Sample, SyntheticRain
from training.metrics import true_streaks

# Crops grow in the last tenth of the steps.
_FINAL_SHARE = 10


class PairedCrops(Dataset[Sample]):
    """Crops of rainy and clean pairs, mirrored at random; items as of SyntheticRain."""

    def __init__(self, pairs: Sequence[ImagePair], crop: int, seed: int, length: int) -> None:
        self.pairs, self.crop, self.seed, self.length = list(pairs), crop, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        rainy, clean = read_pair(self.pairs[int(rng.integers(len(self.pairs)))])
        height, width = rainy.shape[:2]
        top, left = int(rng.integers(height - self.crop + 1)), int(rng.integers(width - self.crop + 1))
        mirror = 1 if rng.random() < 0.5 else -1
        window = slice(top, top + self.crop), slice(left, left + self.crop)
        rainy, clean = (np.ascontiguousarray(image[window][:, ::mirror]) for image in (rainy, clean))
        return {
            "rainy": to_tensor(rainy)[0],
            "clean": to_tensor(clean)[0],
            "streaks": torch.from_numpy(true_streaks(rainy, clean)),
        }


class Mixture(Dataset[Sample]):
    """Each sample from one of several data sets of equal length, drawn evenly by its number."""

    def __init__(self, datasets: Sequence[Dataset[Sample]], seed: int, length: int) -> None:
        self.datasets, self.seed, self.length = list(datasets), seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        choice = np.random.default_rng([self.seed, index]).integers(len(self.datasets))
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


def make_stream(config: DataConfig, steps: int, processes: int, seed: int) -> Dataset[Sample]:
    """All samples of a run in order: ``steps * batch * processes`` of them, the last tenth larger.

    Raises ImageFormatError for data that cannot be trained on.
    """
    large = steps // _FINAL_SHARE
    parts = [(steps - large, config.crop, seed), (large, config.final_crop, seed + 1)]
    pairs = [find_pairs(Path(folder)) for folder in config.paired]
    for found in pairs:
        check_pairs(found, max(config.crop, config.final_crop))
    photographs = Photographs(Path(config.clean), max(config.crop, config.final_crop)) if config.clean else None
    streams: list[Dataset[Sample]] = []
    for part_steps, crop, part_seed in parts:
        if length := part_steps * config.batch * processes:
            sources: list[Dataset[Sample]] = [PairedCrops(found, crop, part_seed, length) for found in pairs]
            if photographs:
                sources.append(SyntheticRain(photographs, config.rain, crop, part_seed, length, config.augmentation))
            streams.append(Mixture(sources, part_seed, length))
    return ConcatDataset(streams)


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
