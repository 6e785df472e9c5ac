"""Streak strengths -> binary streak mask and rain score, the same on every backend."""

from __future__ import annotations

from typing import cast

import cv2

from sapnet.images.frame import Frame

# Where Matthews correlation is about the largest in light and in heavy rain alike; see the model card.
DEFAULT_MASK_THRESHOLD = 13
# Luma taken out of a pixel counts towards the rain score up to here, so that a few bright spots do not make a storm.
_SCORE_CEILING = 64


def streak_mask(streaks: Frame, threshold: int = DEFAULT_MASK_THRESHOLD) -> Frame:
    """Streaks, uint8 (H, W), 0 to 255 -> uint8 (H, W): 255 where they are above ``threshold``, else 0."""
    return cast(Frame, cv2.threshold(streaks, threshold, 255, cv2.THRESH_BINARY)[1])


def rain_score(streaks: Frame) -> float:
    """How much rain was taken out of a frame, in [0, 1]: ``mean(min(streaks, 64)) / 64``."""
    capped = cv2.threshold(streaks, _SCORE_CEILING, _SCORE_CEILING, cv2.THRESH_TRUNC)[1]
    return float(cv2.mean(capped)[0]) / _SCORE_CEILING
