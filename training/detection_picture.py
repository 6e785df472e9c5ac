"""Frames with what a detector found on them drawn in, for a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.images.frame import Frame
from training.detection_metrics import match
from training.detector import Detections

LEGEND = "green: again, red: missed, yellow: new"

_FOUND, _MISSED, _NEW = (80, 210, 80), (70, 70, 245), (40, 200, 250)
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.55
# Twice the width of a contact sheet's cell, so that lines and letters come out crisp.
_WIDTH = 640


def draw_detections(frame: Frame, found: Detections, expected: Detections, names: Sequence[str], iou: float) -> Frame:
    """A copy of the frame, 640 columns wide, with the boxes of found and missed objects; see ``LEGEND``."""
    scale = _WIDTH / frame.shape[1]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cast(Frame, cv2.resize(frame, None, fx=scale, fy=scale, interpolation=method))
    partners = match(found, expected, iou).tolist()
    objects = [(expected, index, _MISSED) for index in range(len(expected)) if index not in partners]
    objects += [(found, index, _NEW if partner < 0 else _FOUND) for index, partner in enumerate(partners)]
    written = np.zeros(picture.shape[:2], np.bool_)
    for detections, index, colour in objects:
        left, top, right, bottom = (round(side) for side in (detections.boxes[index] * scale).tolist())
        cv2.rectangle(picture, (left, top), (right, bottom), colour, 2, cv2.LINE_AA)
        text = f"{names[detections.classes[index]]} {detections.confidences[index]:.2f}"
        _write(picture, written, text, left, top - 4, colour)
    return picture


def _write(
    picture: Frame, written: NDArray[np.bool_], text: str, left: int, bottom: int, colour: tuple[int, int, int]
) -> None:
    """A line of text, unless it would cover another, which ``written`` marks."""
    (width, height), _ = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    left, bottom = max(0, min(left, picture.shape[1] - width)), max(height, bottom)
    place = written[bottom - height : bottom, left : left + width]
    if not place.any():
        place[:] = True
        cv2.putText(picture, text, (left, bottom), _FONT, _FONT_SCALE, colour, 1, cv2.LINE_AA)
