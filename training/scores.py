"""Methods that derain, and their figures on a data set: per image, their means, and masks pooled over all pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sapnet import Derainer
from sapnet.errors import ImageFormatError
from sapnet.images.frame import psnr, psnr_y
from sapnet.media.sources import read_image
from sapnet.streaks import DEFAULT_MASK_THRESHOLD, streak_mask
from training.datasets.paired import ImagePair, check_pairs, images_in, read_pair, refuse
from training.metrics import Image, MaskCounts, Plane, ssim_rgb, ssim_y, streak_strength, true_streaks

_MEASURES: Mapping[str, Callable[[Image, Image], float]] = MappingProxyType(
    {"psnr_y": psnr_y, "ssim_y": ssim_y, "psnr_rgb": psnr, "ssim_rgb": ssim_rgb}
)
QUALITY = tuple(_MEASURES)
MASK = ("precision", "recall", "f1", "matthews")
FIGURES = (*QUALITY, *MASK)


@dataclass(frozen=True)
class Method:
    """Something that derains the rainy images of pairs.

    name: in tables. derain: a pair and its rainy image, uint8 (H, W, 3) BGR -> the derained image and the streak mask,
    uint8 (H, W), 0 or 255. source: the weights or folder as given. mask_threshold: of ``streaks``. stages: recurrences
    that are run. backend: such as ``openvino fp32``. The last four are None where there is no such thing.
    """

    name: str
    derain: Callable[[ImagePair, Image], tuple[Image, Plane]]
    source: str | None = None
    mask_threshold: int | None = None
    stages: int | None = None
    backend: str | None = None


def rainy_input() -> Method:
    """Does nothing and sees no streaks: what every other method must beat."""
    return Method("rainy input", lambda _, rainy: (rainy, np.zeros(rainy.shape[:2], np.uint8)))


def network(derainer: Derainer, name: str = "derained") -> Method:
    """The weights and backend of an open Derainer, and its mask threshold."""

    def derain(_: ImagePair, rainy: Image) -> tuple[Image, Plane]:
        derained = derainer([rainy])[0]
        return derained.image, derained.streak_mask

    backend = f"{derainer.backend_name} {derainer.precision}"
    return Method(name, derain, derainer.weights, derainer.mask_threshold, derainer.stages, backend)


def results(
    folder: Path, pairs: Sequence[ImagePair], name: str = "results", mask_threshold: int = DEFAULT_MASK_THRESHOLD
) -> Method:
    """Derained images that lie in ``folder`` under their rainy images' names, the suffix free.

    The mask is where luma(rainy) - luma(result), rounded, is above ``mask_threshold``. All images are read once
    beforehand: raises ImageFormatError that lists what is missing, unreadable or of the wrong size.
    """
    paths = _find_results(folder, pairs)

    def derain(pair: ImagePair, rainy: Image) -> tuple[Image, Plane]:
        derained = read_image(paths[pair])
        return derained, streak_mask(streak_strength(rainy, derained), mask_threshold)

    return Method(name, derain, str(folder), mask_threshold)


def _find_results(folder: Path, pairs: Sequence[ImagePair]) -> Mapping[ImagePair, Path]:
    if not folder.is_dir():
        raise ImageFormatError(f"{folder}: no such folder of results")
    by_name = {key: path for path in images_in(folder) for key in (path.stem.lower(), path.name)}
    found = {pair: by_name.get(pair.rainy.name) or by_name.get(pair.rainy.stem.lower()) for pair in pairs}
    problems = [f"no result for {pair.rainy.name}" for pair, path in found.items() if path is None]
    refuse(f"{folder} lacks results; name them as the rainy images", problems)
    paths = {pair: path for pair, path in found.items() if path is not None}
    check_pairs([ImagePair(pair.name, path, pair.clean) for pair, path in paths.items()])
    return paths


@dataclass(frozen=True)
class ImageScore:
    """Figures of one image against its clean one. quality: by the names of ``QUALITY``, an infinite PSNR if equal."""

    name: str
    quality: Mapping[str, float]
    mask: MaskCounts

    @property
    def figures(self) -> dict[str, float]:
        """By the names of ``FIGURES``."""
        return {**self.quality, **_of_mask(self.mask)}


@dataclass(frozen=True)
class Score:
    """Figures of a method, in the order of the pairs."""

    method: Method
    images: Sequence[ImageScore]

    @cached_property
    def mask(self) -> MaskCounts:
        """All pixels of all images."""
        return sum((image.mask for image in self.images), MaskCounts())

    @property
    def figures(self) -> dict[str, float]:
        """By the names of ``FIGURES``: means over images of PSNR and SSIM, and the pooled mask's figures."""
        quality = {name: float(np.mean([image.quality[name] for image in self.images])) for name in QUALITY}
        return quality | _of_mask(self.mask)


def _of_mask(mask: MaskCounts) -> dict[str, float]:
    return {name: float(getattr(mask, name)) for name in MASK}


def score(method: Method, pairs: Sequence[ImagePair], on_image: Callable[[], None] = lambda: None) -> Score:
    """Run ``method`` on every pair and measure; ``on_image`` is called after each.

    Raises SapnetError where an image cannot be read or derained.
    """
    images = []
    for pair in pairs:
        rainy, clean = read_pair(pair)
        derained, mask = method.derain(pair, rainy)
        quality = {name: measure(derained, clean) for name, measure in _MEASURES.items()}
        images.append(ImageScore(pair.name, quality, MaskCounts.of(mask > 0, true_streaks(rainy, clean))))
        on_image()
    return Score(method, images)


@dataclass
class SetReport:
    """What was measured on one data set, method by method; the first is the rainy input.

    name: in tables. folder: as given.
    """

    name: str
    folder: str
    pairs: Sequence[ImagePair]
    scores: list[Score] = field(default_factory=list)

    @property
    def truth(self) -> MaskCounts:
        """Whose ``streak_share`` and ``f1_all_ones`` depend on the data set alone."""
        return self.scores[0].mask
