"""Recordings of drives for tests of the replay: cameras with their camera_info, and what else a drive has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Qos, QosReliability

from bag_builders import (
    FRAME_NS,
    START_NS,
    Frame,
    Sent,
    camera_info,
    compressed,
    image,
    profile,
    recorded,
    text,
    write_bag,
)

LATCHED = profile("TRANSIENT_LOCAL")._replace(reliability=QosReliability.RELIABLE)
SENSOR = profile("VOLATILE", 5)


def drive(
    cameras: Sequence[str], frames: Sequence[Frame], jpeg: bool = False, offset_ns: int = 2_000_000
) -> Iterator[Sent]:
    """Frames of cameras, each ``offset_ns`` after the one before, with camera_info that tells the frames apart.

    It is logged half a millisecond after its stamp, which is before the frame of that stamp.
    """
    make: Any = compressed if jpeg else image
    for number, frame in enumerate(frames):
        for index, camera in enumerate(cameras):
            stamp_ns, (height, width) = START_NS + number * FRAME_NS + index * offset_ns, frame.shape[:2]
            yield camera_info(f"{camera}/camera_info", stamp_ns, width, stamp_ns + 500_000, height, 50.0 + number)
            shown = np.roll(frame, index, axis=0)
            yield make(f"{camera}/image_raw" + ("/compressed" if jpeg else ""), stamp_ns, shown)


def talk(topic: str, count: int, period_ns: int = 100_000_000) -> Iterator[Sent]:
    """Strings that tell their number."""
    for number in range(count):
        yield text(topic, START_NS + number * period_ns, str(number))


def record(path: Path, messages: Sequence[Sent], profiles: dict[str, Qos] | None = None) -> Path:
    """A rosbag2 folder, in the order of log times. profiles: of topics, where they are recorded."""
    return write_bag(path, sorted(messages, key=lambda sent: sent.time_ns), qos=profiles)


def contents(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Log times and CDR of each topic's messages, in their order."""
    from sapnet.bags import open_recording

    found = defaultdict(list)
    with open_recording(path) as source:
        assert not source.notes
        for message in recorded(source):
            found[message.topic].append((message.time_ns, message.data))
    return found
