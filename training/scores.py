"""Methods that derain, and their figures on a data set: per image, their means, and masks pooled over all pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sapnet import Derainer
from sapnet.images.frame import psnr, psnr_y, to_y
from sapnet.media.pictures import read_image
from sapnet.streaks import DEFAULT_MASK_THRESHOLD, streak_mask
from training.datasets.paired import ImagePair, check, images_in, read_pair, refuse
from training.metrics import Image, Plane, count_pixels, mask_figures, ssim, streak_strength, true_streaks

QUALITY: Mapping[str, Callable[[Image, Image], float]] = {
    "psnr_y": psnr_y,
    "ssim_y": lambda image, clean: ssim(to_y(image), to_y(clean)),
    "psnr_rgb": psnr,
    "ssim_rgb": ssim,
}


@dataclass(frozen=True)
class Method:
    """Something that derains the rainy images of pairs.

    name: in tables. derain: a pair and its rainy image, uint8 (H, W, 3) BGR -> the derained image and the streak mask,
    uint8 (H, W), 0 or 255. source: the weights or folder as given. stages: recurrences that are run. backend: such as
    ``openvino fp32``. The last three are None for the rainy input, whose mask is empty and means nothing.
    """

    name: str
    derain: Callable[[ImagePair, Image], tuple[Image, Plane]]
    source: str | None = None
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
    return Method(name, derain, derainer.weights, derainer.stages, backend)


def results(
    folder: Path, pairs: Sequence[ImagePair], name: str = "results", mask_threshold: int = DEFAULT_MASK_THRESHOLD
) -> Method:
    """Derained images that lie in ``folder`` under their rainy images' names, the suffix free.

    The mask is where luma(rainy) - luma(result), rounded, is above ``mask_threshold``. All images are read once
    beforehand: raises ImageFormatError that lists what is missing, unreadable or of the wrong size.
    """
    by_stem = {path.stem.lower(): path for path in images_in(folder)}
    missing = [pair.rainy.name for pair in pairs if pair.rainy.stem.lower() not in by_stem]
    refuse(f"{folder} lacks results; name them as the rainy images", [f"no result for {name}" for name in missing])
    paths = {pair: by_stem[pair.rainy.stem.lower()] for pair in pairs}
    check(ImagePair(pair.name, path, pair.clean) for pair, path in paths.items())

    def derain(pair: ImagePair, rainy: Image) -> tuple[Image, Plane]:
        derained = read_image(paths[pair])
        return derained, streak_mask(streak_strength(rainy, derained), mask_threshold)

    return Method(name, derain, str(folder))


@dataclass(frozen=True)
class Score:
    """Figures of a method by their names: PSNR and SSIM on Y and on RGB, and those of ``mask_figures``.

    PSNR is infinite where images are equal.
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
        quality = {name: measure(derained, clean) for name, measure in QUALITY.items()}
        images[pair.name] = {**quality, **mask_figures(counts)}
        pooled += counts
        on_image()
    means = {name: float(np.mean([figures[name] for figures in images.values()])) for name in QUALITY}
    return Score(method, images, {**means, **mask_figures(pooled)})
