"""The samples of a whole run as one numbered stream: step k is the same whether the run was interrupted or not."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sapnet.images.frame import Frame, to_tensor
from sapnet.media.pictures import read_image
from sapnet.rain import RainSynthesizer
from training.augment import augment_scene, compress, develop, draw_window, lay_streaks, streak_layer
from training.config import DataConfig
from training.datasets.curriculum import draw_image_height, draw_varied_rain
from training.datasets.paired import ImagePair, check, find_photographs, find_sets, read_pair

Sample = dict[str, Tensor]

# Crops grow in the last tenth of the steps.
_FINAL_SHARE = 10
# Set random numbers apart from those that choose the data set, which would else choose the pair, too.
_PAIRED, _RENDERED = 1, 2
# Of decoded images that each process that prepares samples keeps.
_KEPT_BYTES = 512 * 2**20


class Stream(Dataset[Sample]):
    """All samples of a run in order: ``steps * batch * processes`` of them, the last tenth larger.

    Items: ``rainy`` and ``clean``, float32 (3, crop, crop) RGB in [0, 1]. Each is of one paired set or of the
    photographs, drawn by its number with their shares. Every photograph comes once in each epoch of as many samples,
    in an order of that epoch's own and in other rain.
    Every image is read once beforehand: raises ImageFormatError for data that cannot be trained on, ValueError for
    shares that leave nothing for the photographs.
    """

    def __init__(self, config: DataConfig, steps: int, processes: int, seed: int) -> None:
        self.config, self._seed = config, seed
        self._small, self._length = (
            count * config.batch * processes for count in (steps - steps // _FINAL_SHARE, steps)
        )
        least = max(config.crop, config.final_crop)
        self.pairs, self.streaks = find_sets(config.paired), find_sets(config.streaks)
        self.photographs = find_photographs(Path(config.clean)) if config.clean else []
        alone = (ImagePair(path.stem, path, path) for path in self.photographs)
        check(chain(*self.pairs.values(), *self.streaks.values(), alone), least)
        self._layers = [streak_layer(*read_pair(pair)) for pair in chain(*self.streaks.values())]
        self._shares = _shares(len(self.pairs), bool(self.photographs), config.paired_share)
        self._images: dict[Path, Frame] = {}
        self._free_bytes = _KEPT_BYTES

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        is_small = index < self._small
        crop = self.config.crop if is_small else self.config.final_crop
        seed, number = (self._seed, index) if is_small else (self._seed + 1, index - self._small)
        choice = int(np.random.default_rng([seed, number]).choice(len(self._shares), p=self._shares))
        if choice < len(self.pairs):
            pairs = [*self.pairs.values()][choice]
            scene = self._of_pair(pairs, crop, np.random.default_rng([seed, number, _PAIRED]))
        else:
            scene = self._of_photograph(number, crop, seed)
        rng = np.random.default_rng([seed, number, _RENDERED])
        rainy, clean = develop(scene, self.config.augmentation, rng)
        rainy = compress(rainy, self.config.augmentation, rng)
        return {"rainy": to_tensor(rainy)[0], "clean": to_tensor(clean)[0]}

    def _of_pair(self, pairs: Sequence[ImagePair], crop: int, rng: np.random.Generator) -> list[Frame]:
        augmentation = self.config.augmentation
        rainy, clean = read_pair(pairs[int(rng.integers(len(pairs)))], self._read)
        window = draw_window(rainy, crop, crop, rng)
        if rng.random() < augmentation.dry:
            rainy = clean
        return augment_scene([rainy[window], clean[window]], augmentation, rng)

    def _of_photograph(self, number: int, crop: int, seed: int) -> list[Frame]:
        config = self.config
        epoch, place = divmod(number, len(self.photographs))
        chosen = np.random.default_rng([seed, epoch]).permutation(len(self.photographs))[place]
        rng = np.random.default_rng([seed, epoch, place])
        image = self._read(self.photographs[chosen])
        (clean,) = augment_scene([image[draw_window(image, crop, crop, rng)]], config.augmentation, rng)
        if self._layers and rng.random() < config.streaks_share:
            rainy = lay_streaks(self._layers[int(rng.integers(len(self._layers)))], clean, rng)
        else:
            rain = draw_varied_rain(config.rain, rng)
            image_height, rain_seed = draw_image_height(rng), int(rng.integers(2**31))
            rainy = RainSynthesizer(rain, crop, crop, rain_seed, image_height).add(clean, 0)[0] if rain else clean
        return [rainy, clean]

    def _read(self, path: Path) -> Frame:
        """uint8 (H, W, 3) BGR, not to be written to; the images that come first are kept, as far as memory goes."""
        if path not in self._images:
            image = read_image(path)
            if image.nbytes > self._free_bytes:
                return image
            self._images[path] = image
            self._free_bytes -= image.nbytes
        return self._images[path]


def _shares(paired: int, photographs: bool, each: float) -> list[float]:
    """Of each paired set and, if there are some, of the photographs. Raises ValueError."""
    if not each or not photographs:
        return [1 / (paired + photographs)] * (paired + photographs)
    if (rest := 1 - paired * each) <= 0:
        raise ValueError(f"data.paired_share {each:g} of {paired} paired sets leaves nothing for the photographs")
    return [*[each] * paired, rest]


def make_loader(stream: Stream, step: int, rank: int, processes: int) -> DataLoader[Sample]:
    """Batches of one process from ``step``, to which the run has come, on; processes take turns by sample."""
    batch, workers = stream.config.batch, stream.config.workers
    begin = step * batch * processes + rank
    return DataLoader(
        stream,
        batch_size=batch,
        # As many as of a whole run, as Lightning counts a resumed one, which ends before those behind the stream's end.
        sampler=range(begin, begin + len(stream), processes),
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        # A forked worker hangs where OpenCV's threads have run before.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_start_worker,
    )


def _start_worker(_: int) -> None:
    """Workers share the cores with training; OpenCV would use all of them in each."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    # Ctrl-C, and what service managers and schedulers stop a run with, reach the whole group of processes. The run
    # ends in good order after its step and takes its workers along: they end with it even where it is killed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
