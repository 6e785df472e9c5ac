"""How good a derained image and a streak mask are. Images are uint8 (H, W, 3) BGR."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

Image = NDArray[np.uint8]
Plane = NDArray[np.uint8]
Counts = NDArray[np.int64]

# Luma 0.299 R + 0.587 G + 0.114 B in BGR order, and what rain must add to it to count as a streak (10/255): in
# whole thousandths, because gray rain often adds exactly 10, which a rounded sum puts on either side.
_LUMA_PERMILLE_BGR = np.array((114, 587, 299))
_STREAK = 10_000


def ssim(image: NDArray[Any], clean: NDArray[Any]) -> float:
    """Structural similarity, at most 1: Gaussian 11x11 window, sigma 1.5, mean over the valid region.

    image, clean: (H, W), or (H, W, 3), whose channels are averaged; 0 to 255.
    """
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        image.astype(np.float64),
        clean.astype(np.float64),
        data_range=255.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2 if image.ndim == 3 else None,
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


def count_pixels(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Counts:
    """Pixels of two masks: true positive, false positive, false negative, true negative; add up to pool images."""
    cells = (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
    return np.array([np.count_nonzero(cell) for cell in cells])


def mask_figures(counts: Counts) -> dict[str, float]:
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
