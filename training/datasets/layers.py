"""Streak layers of published pairs, to be laid on other photographs."""

from __future__ import annotations

import cv2
import numpy as np

from sapnet.images.frame import Frame
from training.datasets.augment import draw_window

# How a layer is varied: half of the samples keep its scale and direction, all have their own strength.
_WARPED = 0.5
_SCALE = (0.85, 1.4)
_SHEAR = 0.2
_STRENGTH = (0.7, 1.3)


def streak_layer(rainy: Frame, clean: Frame) -> Frame:
    """uint8 (H, W): what streaks of one grey level added to all channels, as in RainTrainL and H.

    Sums were clipped at 255: the channel that gained most has lost least to it.
    """
    added = (rainy.astype(np.int16) - clean).max(axis=2)
    layer: Frame = added.clip(0, 255).astype(np.uint8)
    return layer


def lay_streaks(layer: Frame, clean: Frame, rng: np.random.Generator) -> Frame:
    """``clean``, uint8 (h, w, 3) BGR, under a part of a layer: mirrored, scaled, sheared, weaker or stronger.

    The layer must not be smaller than the image.
    """
    height, width = clean.shape[:2]
    layer = layer[:, :: -1 if rng.random() < 0.5 else 1]
    if rng.random() < _WARPED:
        scale, shear = rng.uniform(*_SCALE), rng.uniform(-_SHEAR, _SHEAR)
        matrix = np.array([[scale, shear, -shear * layer.shape[0] / 2], [0, scale, 0]])
        layer = np.asarray(
            cv2.warpAffine(layer, matrix, layer.shape[::-1], borderMode=cv2.BORDER_REFLECT_101), np.uint8
        )
    part = layer[draw_window(layer, height, width, rng)] * rng.uniform(*_STRENGTH)
    return np.clip(np.rint(clean + part[..., None]), 0, 255).astype(np.uint8)
