"""Clean photographs with rain synthesised on the fly: the same sample for the same seed and number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sapnet.errors import ImageFormatError
from sapnet.images.frame import to_tensor
from sapnet.media.sources import IMAGE_SUFFIXES
from sapnet.rain import RainConfig, RainSynthesizer
from training.datasets.augment import Augmentation, augment_scene, compress, draw_window
from training.datasets.cache import ImageCache
from training.datasets.curriculum import draw_rain
from training.datasets.layers import StreakLayers
from training.datasets.paired import refuse, sizes_or_problems
from training.metrics import true_streaks

Image = NDArray[np.uint8]
Sample = dict[str, Tensor]

# Streaks are sized as in a photograph of this height, times a factor: most benchmarks are such photographs, and a
# crop of them must also stand for a part of a camera frame, whose streaks have more pixels.
_PHOTOGRAPH_HEIGHT = 321


@dataclass(frozen=True)
class RainySample:
    """rainy, clean: uint8 (h, w, 3) BGR. streaks: bool (h, w), where streaks added more than 10/255 of luma; mist is
    none."""

    rainy: Image
    clean: Image
    streaks: NDArray[np.bool_]


class Photographs:
    """Clean images, each of them read once to see that it can be used.

    folder_or_files: a folder, however deep, or the files. least: pixels that both sides must have. cache: of others to
    share.
    Raises ImageFormatError that lists the unreadable ones and those that are too small, or says that there are none.
    """

    def __init__(self, folder_or_files: Path | Sequence[Path], least: int, cache: ImageCache | None = None) -> None:
        given = folder_or_files
        self.paths = find_photographs(given) if isinstance(given, Path) else list(given)
        problems = []
        for path, found in zip(self.paths, sizes_or_problems(self.paths), strict=True):
            if isinstance(found, str):
                problems.append(found)
            elif min(found) < least:
                problems.append(
                    f"{path} is {found[0]}x{found[1]}, expected at least {least}x{least} for crops of that size"
                )
        refuse("photographs that cannot be used; mend or move away", problems)
        self.read = (cache or ImageCache()).read


class SyntheticRain(Dataset[Sample]):
    """Crops of clean photographs in rain, with the exact streak mask.

    photographs: a folder, the files, or Photographs that several share; each at least ``crop`` pixels on both sides.
    kind: of ``training.datasets.curriculum.draw_rain``. crop: side in pixels. length: number of samples, 0 for one of
    each photograph. layers: streaks that their share of the samples get instead. Every photograph comes once in each
    epoch of as many samples, in an order of that epoch's own and in other rain.

    Items: ``rainy`` and ``clean``, float32 (3, crop, crop) RGB in [0, 1], and ``streaks``, bool (crop, crop).
    Raises ImageFormatError where there are no photographs or one is damaged or too small.
    """

    def __init__(
        self,
        photographs: Photographs | Path | Sequence[Path],
        kind: str = "mixed",
        crop: int = 112,
        seed: int = 0,
        length: int = 0,
        augmentation: Augmentation | None = None,
        layers: StreakLayers | None = None,
    ) -> None:
        self.photographs = photographs if isinstance(photographs, Photographs) else Photographs(photographs, crop)
        self.kind, self.crop, self.seed = kind, crop, seed
        self.length = length or len(self.photographs.paths)
        self.augmentation, self.layers = augmentation or Augmentation(), layers

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        sample = self.make(index)
        return {
            "rainy": to_tensor(sample.rainy)[0],
            "clean": to_tensor(sample.clean)[0],
            "streaks": torch.from_numpy(sample.streaks),
        }

    def make(self, index: int) -> RainySample:
        """The sample as uint8 frames."""
        paths = self.photographs.paths
        epoch, place = divmod(index, len(paths))
        path = paths[np.random.default_rng([self.seed, epoch]).permutation(len(paths))[place]]
        rng = np.random.default_rng([self.seed, epoch, place])
        (clean,) = augment_scene([self._crop(path, rng)], self.augmentation, rng)
        if self.layers and rng.random() < self.layers.share:
            rainy = self.layers.lay(clean, rng)
            sample = RainySample(rainy, clean, true_streaks(rainy, clean))
        else:
            rain = draw_rain(self.kind, rng)
            image_height = _PHOTOGRAPH_HEIGHT * _draw_scale(rng)
            sample = rain_on(clean, rain, int(rng.integers(2**31)), image_height)
        return replace(sample, rainy=compress(sample.rainy, self.augmentation, rng))

    def _crop(self, path: Path, rng: np.random.Generator) -> Image:
        image = self.photographs.read(path)
        return image[draw_window(image, self.crop, self.crop, rng)]


def rain_on(clean: Image, rain: RainConfig | None, seed: int, image_height: float | None = None) -> RainySample:
    """``clean`` in this rain, with the exact mask of its streaks; without rain as it is, with an empty one.

    image_height: of the image that ``clean`` is a part of; its own if None.
    """
    if rain is None:
        return RainySample(clean, clean, np.zeros(clean.shape[:2], np.bool_))
    height, width = clean.shape[:2]
    synthesizer = RainSynthesizer(rain, height, width, seed, image_height)
    rainy, _ = synthesizer.add(clean, 0)
    return RainySample(rainy, clean, true_streaks(rainy, synthesizer.add_mist(clean)))


def find_photographs(folder: Path) -> list[Path]:
    """Image files under ``folder``, however deep, in the order of their names; hidden ones are passed over.

    Raises ImageFormatError without any.
    """
    found = sorted(path for path in folder.rglob("*") if _is_photograph(path.relative_to(folder)) and path.is_file())
    if not found:
        what = "holds no images" if folder.is_dir() else "no such folder"
        raise ImageFormatError(f"{folder}: {what}; expected a folder with clean photographs", kind="decode")
    return found


def _is_photograph(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _draw_scale(rng: np.random.Generator) -> float:
    """Mostly around 1; one in five up to 2.2, the streaks of a 720p frame."""
    return float(rng.uniform(1.2, 2.2) if rng.random() < 0.2 else rng.uniform(0.8, 1.3))
