"""How good a derained image and a streak mask are. Images are uint8 (H, W, 3) BGR."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from sapnet.images.frame import to_y

Image = NDArray[np.uint8]
Plane = NDArray[np.uint8]

# Luma 0.299 R + 0.587 G + 0.114 B in BGR order, and what rain must add to it to count as a streak (10/255): in
# whole thousandths, because gray rain often adds exactly 10, which a rounded sum puts on either side.
_LUMA_PERMILLE_BGR = np.array((114, 587, 299))
_STREAK = 10_000


def ssim_y(image: Image, clean: Image) -> float:
    """Structural similarity on Y, at most 1: Gaussian 11x11 window, sigma 1.5, mean over the valid region."""
    return _ssim(to_y(image), to_y(clean))


def ssim_rgb(image: Image, clean: Image) -> float:
    """The mean of what ``ssim_y`` computes, on each of the three channels in its place."""
    return float(np.mean([_ssim(image[..., c].astype(float), clean[..., c].astype(float)) for c in range(3)]))


def _ssim(plane: NDArray[np.float64], clean: NDArray[np.float64]) -> float:
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        plane,
        clean,
        data_range=255.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return float(similarity[5:-5, 5:-5].mean())


def true_streaks(rainy: Image, clean: Image) -> NDArray[np.bool_]:
    """(H, W): where rain added more than 10/255 of luma, ``luma(rainy) - luma(clean) > 10/255``."""
    added: NDArray[np.int64] = (rainy.astype(np.int64) - clean) @ _LUMA_PERMILLE_BGR
    return added > _STREAK


def streak_strength(rainy: Image, derained: Image) -> Plane:
    """uint8 (H, W): ``round(max(0, luma(rainy) - luma(derained)))``, the ``streaks`` of the deployed network."""
    removed = (rainy.astype(np.int64) - derained) @ _LUMA_PERMILLE_BGR / 1000.0
    strength: Plane = np.rint(removed).clip(0, 255).astype(np.uint8)
    return strength


@dataclass(frozen=True)
class MaskCounts:
    """Pixels of predicted against true streak masks; add them up to pool images."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    @classmethod
    def of(cls, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> MaskCounts:
        """Count two boolean masks of one shape."""
        both = int(np.count_nonzero(predicted & truth))
        positive, actual = int(np.count_nonzero(predicted)), int(np.count_nonzero(truth))
        return cls(both, positive - both, actual - both, truth.size - positive - actual + both)

    def __add__(self, other: MaskCounts) -> MaskCounts:
        return MaskCounts(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    @property
    def streak_share(self) -> float:
        """Share of all pixels that truly are streaks."""
        actual = self.true_positive + self.false_negative
        return _ratio(actual, actual + self.false_positive + self.true_negative)

    @property
    def precision(self) -> float:
        """Share of predicted streak pixels that are true; 0 where none was predicted."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """Share of true streak pixels that were predicted; 0 where there are none."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)

    @property
    def f1_all_ones(self) -> float:
        """F1 of a mask that calls every pixel a streak: what any useful mask must beat."""
        actual = self.true_positive + self.false_negative
        return _ratio(2 * actual, 2 * actual + self.false_positive + self.true_negative)

    @property
    def matthews(self) -> float:
        """Matthews correlation in [-1, 1]; 0 for a mask that says nothing, all ones included."""
        tp, fp, fn, tn = self.true_positive, self.false_positive, self.false_negative, self.true_negative
        return _ratio(tp * tn - fp * fn, math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
