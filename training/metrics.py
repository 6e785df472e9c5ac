"""How good derained images and streak masks are: of one image, of a data set, and methods that derain one.

Images are uint8 (H, W, 3) BGR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from sapnet import Derainer
from sapnet.images.frame import Frame, psnr, psnr_y, to_y
from sapnet.media.pictures import read_image
from sapnet.streaks import DEFAULT_MASK_THRESHOLD, streak_mask
from training.datasets.paired import ImagePair, check, images_in, read_pair, refuse

# Luma 0.299 R + 0.587 G + 0.114 B in BGR order, and what rain must add to it to count as a streak (10/255): in
# whole thousandths, because gray rain often adds exactly 10, which a rounded sum puts on either side.
_LUMA_PERMILLE_BGR = np.array((114, 587, 299))
_STREAK = 10_000


def ssim(image: NDArray[Any], clean: NDArray[Any]) -> float:
    """Structural similarity, at most 1: Gaussian 11x11 window, sigma 1.5, mean over the valid region.

    image, clean: (H, W), or (H, W, 3), whose channels are averaged; 0 to 255.
    """
    similarity = structural_similarity(  # type: ignore[no-untyped-call]
        image.astype(np.float64),
        clean.astype(np.float64),
        data_range=255.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2 if image.ndim == 3 else None,
    )
    return float(similarity)


def true_streaks(rainy: Frame, clean: Frame) -> NDArray[np.bool_]:
    """(H, W): where rain added more than 10/255 of luma, ``luma(rainy) - luma(clean) > 10/255``."""
    added: NDArray[np.int64] = (rainy.astype(np.int64) - clean) @ _LUMA_PERMILLE_BGR
    return added > _STREAK


def streak_strength(rainy: Frame, derained: Frame) -> Frame:
    """uint8 (H, W): ``round(max(0, luma(rainy) - luma(derained)))``, the ``streaks`` of the deployed network."""
    removed = (rainy.astype(np.int64) - derained) @ _LUMA_PERMILLE_BGR / 1000.0
    strength: Frame = np.rint(removed).clip(0, 255).astype(np.uint8)
    return strength


def count_pixels(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pixels of two masks: true positive, false positive, false negative, true negative; add up to pool images."""
    cells = (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
    return np.array([np.count_nonzero(cell) for cell in cells])


def mask_figures(counts: NDArray[np.int64]) -> dict[str, float]:
    """Figures of a streak mask, 0 where they would divide by nothing.

    precision, recall: share of the predicted streak pixels that are true, and of the true ones that were predicted.
    f1: their harmonic mean. matthews: correlation in [-1, 1], 0 for a mask that says nothing, all ones included.
    streak_share: of all pixels, those that truly are streaks. f1_all_ones: of a mask that calls every pixel a streak,
    which any useful mask must beat.
    """
    tp, fp, fn, tn = (int(count) for count in counts)
    streaks, pixels = tp + fn, tp + fp + fn + tn
    return {
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, streaks),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "matthews": _ratio(tp * tn - fp * fn, math.sqrt((tp + fp) * streaks * (tn + fp) * (tn + fn))),
        "streak_share": _ratio(streaks, pixels),
        "f1_all_ones": _ratio(2 * streaks, streaks + pixels),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


QUALITY: Mapping[str, Callable[[Frame, Frame], float]] = {
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
    derain: Callable[[ImagePair, Frame], tuple[Frame, Frame]]
    source: str | None = None
    stages: int | None = None
    backend: str | None = None


# Does nothing and sees no streaks: what every other method must beat.
RAINY_INPUT = Method("rainy input", lambda _, rainy: (rainy, np.zeros(rainy.shape[:2], np.uint8)))


def network(derainer: Derainer, name: str = "derained") -> Method:
    """The weights and backend of an open Derainer, and its mask threshold."""

    def derain(_: ImagePair, rainy: Frame) -> tuple[Frame, Frame]:
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

    def derain(pair: ImagePair, rainy: Frame) -> tuple[Frame, Frame]:
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


def score(method: Method, pairs: Iterable[ImagePair]) -> Score:
    """Run ``method`` on every pair and measure. Raises SapnetError where an image cannot be read or derained."""
    images, pooled = {}, np.zeros(4, np.int64)
    for pair in pairs:
        rainy, clean = read_pair(pair)
        derained, mask = method.derain(pair, rainy)
        counts = count_pixels(mask > 0, true_streaks(rainy, clean))
        images[pair.name] = {name: measure(derained, clean) for name, measure in QUALITY.items()} | mask_figures(counts)
        pooled += counts
    means = {name: float(np.mean([figures[name] for figures in images.values()])) for name in QUALITY}
    return Score(method, images, means | mask_figures(pooled))
