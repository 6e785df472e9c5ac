"""Methods that derain, and their figures on a data set: per image, their means, and masks pooled over all pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sapnet import Derainer
from sapnet.errors import ImageFormatError
from sapnet.images.frame import psnr, psnr_y
from sapnet.media.sources import read_image
from sapnet.streaks import DEFAULT_MASK_THRESHOLD, streak_mask
from training.datasets.paired import ImagePair, check_pairs, images_in, read_pair, refuse
from training.metrics import (
    Image,
    Plane,
    count_pixels,
    mask_figures,
    ssim_rgb,
    ssim_y,
    streak_strength,
    true_streaks,
)

_MEASURES: Mapping[str, Callable[[Image, Image], float]] = MappingProxyType(
    {"psnr_y": psnr_y, "ssim_y": ssim_y, "psnr_rgb": psnr, "ssim_rgb": ssim_rgb}
)
QUALITY = tuple(_MEASURES)
FIGURES = (*QUALITY, "precision", "recall", "f1", "matthews")


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
class Score:
    """Figures of a method by the names of ``FIGURES`` and of ``mask_figures``; an infinite PSNR if images are equal.

    images: of each image by its pair's name. figures: means over images of PSNR and SSIM, and of the mask over all
    pixels of all images.
    """

    method: Method
    images: Mapping[str, Mapping[str, float]]
    figures: Mapping[str, float]


def score(method: Method, pairs: Sequence[ImagePair], on_image: Callable[[], None] = lambda: None) -> Score:
    """Run ``method`` on every pair and measure; ``on_image`` is called after each.

    Raises SapnetError where an image cannot be read or derained.
    """
    images, pooled = {}, np.zeros(4, np.int64)
    for pair in pairs:
        rainy, clean = read_pair(pair)
        derained, mask = method.derain(pair, rainy)
        counts = count_pixels(mask > 0, true_streaks(rainy, clean))
        quality = {name: measure(derained, clean) for name, measure in _MEASURES.items()}
        images[pair.name] = {**quality, **mask_figures(counts)}
        pooled += counts
        on_image()
    means = {name: float(np.mean([figures[name] for figures in images.values()])) for name in QUALITY}
    return Score(method, images, {**means, **mask_figures(pooled)})
