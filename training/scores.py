"""Figures of a method on a data set: of each image, their means, and masks pooled over all pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from training.datasets.paired import ImagePair, read_pair
from training.methods import Method
from training.metrics import MaskCounts, psnr_rgb, psnr_y, ssim_rgb, ssim_y, true_streaks

QUALITY = ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb")
MASK = ("precision", "recall", "f1", "matthews")
FIGURES = (*QUALITY, *MASK)


@dataclass(frozen=True)
class ImageScore:
    """Figures of one image against its clean one; PSNR in dB, infinite where they are equal."""

    name: str
    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    ssim_rgb: float
    mask: MaskCounts

    @property
    def figures(self) -> dict[str, float]:
        """By the names of ``FIGURES``."""
        quality = {name: float(getattr(self, name)) for name in QUALITY}
        return quality | {name: float(getattr(self.mask, name)) for name in MASK}


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
        quality = {name: float(np.mean([getattr(image, name) for image in self.images])) for name in QUALITY}
        return quality | {name: float(getattr(self.mask, name)) for name in MASK}


def score(method: Method, pairs: Sequence[ImagePair], on_image: Callable[[], None] = lambda: None) -> Score:
    """Run ``method`` on every pair and measure; ``on_image`` is called after each.

    Raises SapnetError where an image cannot be read or derained.
    """
    images = []
    for pair in pairs:
        rainy, clean = read_pair(pair)
        derained, mask = method.derain(pair, rainy)
        images.append(
            ImageScore(
                pair.name,
                psnr_y(derained, clean),
                ssim_y(derained, clean),
                psnr_rgb(derained, clean),
                ssim_rgb(derained, clean),
                MaskCounts.of(mask > 0, true_streaks(rainy, clean)),
            )
        )
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
