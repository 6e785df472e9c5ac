"""Options for deraining a recording."""

from __future__ import annotations

from dataclasses import dataclass

from sapnet.images.codecs import JPEG_QUALITY

STORAGES = ("mcap", "sqlite3")
CODECS = ("jpeg", "png")


@dataclass(frozen=True)
class BagOptions:
    """How to derain a recording.

    topics: image topics to derain; empty for every color camera. replace: write derained frames under the source's
    topic. only_derained: write derained topics only. compressed: ``jpeg`` or ``png``; empty to keep the source's
    format. quality: of JPEG, 1 to 100. stride: derain every Nth frame of a camera.
    start_s, duration_s: seconds from the recording's start; a duration of 0 reaches to the end. What latched topics
    published before the start is written at the start. storage: ``mcap`` or ``sqlite3``; empty for the source's, or
    mcap for ROS 1. batch: frames per batch.
    """

    topics: tuple[str, ...] = ()
    replace: bool = False
    only_derained: bool = False
    compressed: str = ""
    quality: int = JPEG_QUALITY
    stride: int = 1
    start_s: float = 0.0
    duration_s: float = 0.0
    storage: str = ""
    batch: int = 1
