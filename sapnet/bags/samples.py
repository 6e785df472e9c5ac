"""A few frames of a derained recording, before and after, read where they are: nothing of the run is kept for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.bags.recording import Recording
from sapnet.bags.report_data import CameraReport
from sapnet.bags.types import COMPRESSED_IMAGE, IMAGE, decode_fields, deserialize
from sapnet.errors import ImageFormatError

Frame = NDArray[np.uint8]

MAX_WIDTH = 960


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame. rainy, derained: uint8 (H, W, 3) BGR. streak_mask: uint8 (H, W), None where none was recorded.

    time_ns: log time. All are at most MAX_WIDTH wide.
    """

    time_ns: int
    rain_score: float
    rainy: Frame
    derained: Frame
    streak_mask: Frame | None


def read_samples(camera: CameraReport, source: Recording, output: Recording, count: int) -> Iterator[Sample]:
    """Up to ``count`` derained frames, spread evenly from the first to the last; what cannot be read is left out."""
    for index in spread(min(len(camera.times_ns), len(camera.rain_scores)), count):
        time_ns = camera.times_ns[index]
        rainy, derained = _frame(source, camera.topic, time_ns), _frame(output, camera.derained, time_ns)
        if rainy is None or derained is None:
            continue
        mask = _frame(output, camera.streak_mask, time_ns)
        gray = None if mask is None else mask[..., 0]
        yield Sample(time_ns, camera.rain_scores[index], rainy, derained, gray)


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` places of ``length``, the first and the last among them."""
    if count == 1:
        return [length // 2] if length else []
    return sorted({int(place) for place in np.linspace(0, length - 1, min(length, count)).round()})


def _frame(source: Recording, name: str, time_ns: int) -> Frame | None:
    topics = [topic for topic in source.topics if topic.name == name and topic.type in (IMAGE, COMPRESSED_IMAGE)]
    for topic, _, data in source.messages(topics, time_ns, time_ns + 1):
        try:
            return _scaled(decode_fields(deserialize(data, topic.type), topic.type).bgr)
        except (ImageFormatError, ValueError):  # passed on as it was
            continue
    return None


def _scaled(frame: Frame) -> Frame:
    scale = MAX_WIDTH / frame.shape[1]
    if scale >= 1:
        return frame
    return cast(Frame, cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
