"""What is asked for when a recording is derained."""

from __future__ import annotations

from dataclasses import dataclass

from sapnet.images.codecs import JPEG_QUALITY

STORAGES = ("mcap", "sqlite3")
CODECS = ("jpeg", "png")


@dataclass(frozen=True)
class BagOptions:
    """How to derain a recording.

    topics: of the cameras; empty for every camera in colour. replace: put derained frames under the source's name.
    only_derained: leave the rest out. compressed: write ``jpeg`` or ``png``; empty for as the source is, raw or
    compressed. quality: of JPEG, 1 to 100. stride: derain every so manieth frame of a camera.
    start_s, duration_s: seconds from the recording's start; a duration of 0 goes to the end. latched: keep what
    latched topics said before the start, at the start. storage: ``mcap`` or ``sqlite3``; empty for as the source is,
    mcap for ROS 1. batch: frames that are derained together.
    """

    topics: tuple[str, ...] = ()
    replace: bool = False
    only_derained: bool = False
    compressed: str = ""
    quality: int = JPEG_QUALITY
    stride: int = 1
    start_s: float = 0.0
    duration_s: float = 0.0
    latched: bool = True
    storage: str = ""
    batch: int = 1
