"""Recordings of drives for tests of the replay: cameras with their camera_info, and what else a drive has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer

from bag_builders import FRAME_NS, START_NS, TYPES, Frame, Sent, cdr, compressed, header, image, text

_ANY_TIME = QosTime(0, 0)


def qos(reliability: QosReliability, durability: QosDurability = QosDurability.VOLATILE, depth: int = 5) -> Qos:
    liveliness = QosLiveliness.SYSTEM_DEFAULT
    return Qos(QosHistory.KEEP_LAST, depth, reliability, durability, _ANY_TIME, _ANY_TIME, liveliness, _ANY_TIME, False)


LATCHED = qos(QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, 1)
SENSOR = qos(QosReliability.BEST_EFFORT)


def info(topic: str, stamp_ns: int, size: tuple[int, int], frame_id: str = "camera", focal: float = 50.0) -> Sent:
    """camera_info, logged half a millisecond after its stamp, which is before the frame of that stamp."""
    message = TYPES.types["sensor_msgs/msg/CameraInfo"](
        header=header(stamp_ns, frame_id),
        height=size[0],
        width=size[1],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([focal, 0, 0, 0, focal, 0, 0, 0, 1]),
        r=np.eye(3).reshape(-1),
        p=np.zeros(12),
        binning_x=0,
        binning_y=0,
        roi=TYPES.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    )
    return cdr(topic, stamp_ns + 500_000, message)


def drive(
    cameras: Sequence[str], frames: Sequence[Frame], jpeg: bool = False, offset_ns: int = 2_000_000
) -> Iterator[Sent]:
    """Frames of cameras, each ``offset_ns`` after the one before, with camera_info that tells the frames apart."""
    for number, frame in enumerate(frames):
        for index, camera in enumerate(cameras):
            stamp_ns = START_NS + number * FRAME_NS + index * offset_ns
            yield info(f"{camera}/camera_info", stamp_ns, frame.shape[:2], focal=50.0 + number)
            shown = np.roll(frame, index, axis=0)
            make: Any = compressed if jpeg else image
            yield make(f"{camera}/image_raw" + ("/compressed" if jpeg else ""), stamp_ns, shown)


def talk(topic: str, count: int, period_ns: int = 100_000_000) -> Iterator[Sent]:
    """Strings that tell their number."""
    for number in range(count):
        yield text(topic, START_NS + number * period_ns, str(number))


def record(path: Path, messages: Sequence[Sent], profiles: dict[str, Qos] | None = None) -> Path:
    """A rosbag2 folder, in the order of log times. profiles: of topics, where they are recorded."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[tuple[str, str], Any] = {}
        for sent in sorted(messages, key=lambda sent: sent.time_ns):
            key = sent.topic, sent.type
            if key not in connections:
                offered = [profiles[sent.topic]] if profiles and sent.topic in profiles else []
                connections[key] = writer.add_connection(
                    sent.topic, sent.type, typestore=TYPES, offered_qos_profiles=offered
                )
            writer.write(connections[key], sent.time_ns, sent.data)
    return path


def contents(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Log times and CDR of each topic's messages, in their order."""
    from sapnet.bags import open_recording

    found: dict[str, list[tuple[int, bytes]]] = {}
    with open_recording(path) as source:
        assert not source.notes
        for message in source.messages():
            found.setdefault(message.topic.name, []).append((message.time_ns, message.data))
    return found
