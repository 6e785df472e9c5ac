"""Records what a derain_node publishes as rosbag2, and keeps what it reports."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from sapnet.bags.types import described_topic
from sapnet.bags.writer import BagWriter
from sapnet.errors import BagError
from sapnet.images.topics import DERAINED_INFO, FRAME_STATUS, RAIN_SCORE, RECORDED, Output
from sapnet_ros.camera import TYPES
from sapnet_ros.replay.plan import NodeCamera

# Deep, so that no output of the node is lost.
DEPTH = 50
DERAINED = "derained"


@dataclass
class Frames:
    """A camera's frames: what was sent, and what has come back.

    sent_ns: steady time of the last sending, by stamp. counts: of the outputs that are received. outcomes: ``derained``
    or ``passed_through``, by stamp. latencies_ms: of derained frames. reason: why the last one was not derained, or
    empty.
    """

    counts: dict[Output, int]
    sent: int = 0
    derained: int = 0
    sent_ns: dict[int, int] = field(default_factory=dict)
    outcomes: dict[int, str] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    reason: str = ""

    @property
    def answered(self) -> int:
        """Frames whose status has come."""
        return self.counts[FRAME_STATUS]

    @property
    def complete(self) -> bool:
        """Whether no output of the last frame is missing, by counting: each output keeps the order of frames."""
        return all(
            count == (self.derained if output is RAIN_SCORE else self.answered) for output, count in self.counts.items()
        )

    def note_sent(self, stamp: int) -> None:
        """Note that a frame is being sent."""
        self.sent += 1
        self.sent_ns[stamp] = time.monotonic_ns()

    def note_status(self, message: DiagnosticArray, came_ns: int) -> None:
        """Note a frame_status."""
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        outcome = self.outcomes[stamp] = message.status[0].message
        self.reason = next((pair.value for pair in message.status[0].values if pair.key == "reason"), "")
        if outcome == DERAINED:
            self.derained += 1
            if stamp in self.sent_ns:
                self.latencies_ms.append((came_ns - self.sent_ns[stamp]) / 1e6)


class Recorder(Node):
    """Receives the outputs of a derain_node's cameras, and writes them to ``bag``, if there is one.

    now_ns: gives the log time. changed: called after each message. status, inputs: also write frame_status, and the
    input images. frames: of each camera. diagnostics: the node's last ones, by the name of a camera or of ``backend``;
    heard_ns: when they came, in steady time. idle_reports: diagnostics in a row without a frame in flight.
    """

    def __init__(
        self,
        cameras: Sequence[NodeCamera],
        bag: BagWriter | None,
        now_ns: Callable[[], int],
        changed: Callable[[], None],
        status: bool = False,
        inputs: bool = False,
        **node_options: Any,
    ) -> None:
        super().__init__("recorder", **node_options)
        self._bag, self._now_ns, self._changed = bag, now_ns, changed
        self.frames: dict[NodeCamera, Frames] = {}
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self.heard_ns = time.monotonic_ns()
        self.idle_reports = 0
        self._outputs: list[Any] = []  # subscriptions
        for camera in cameras:
            outputs = [output for output in RECORDED if output is not DERAINED_INFO or camera.has_info]
            frames = Frames(dict.fromkeys([*(outputs if bag is not None else ()), FRAME_STATUS], 0))
            self.frames[camera] = frames
            for output in frames.counts:
                written = status or output is not FRAME_STATUS
                take = partial(self._take_output, frames, output)
                self._outputs.append(self._subscribe(camera.source.output(output.name), output.type, take, written))
            if inputs:
                self._subscribe(camera.source.topic.name, camera.source.topic.type, lambda data, came_ns: None)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, QoSProfile(depth=DEPTH))

    @property
    def connected(self) -> bool:
        """Whether all outputs have a publisher, and diagnostics of all cameras have come."""
        is_told = all(camera.label in self.diagnostics for camera in self.frames)
        return is_told and all(subscription.get_publisher_count() for subscription in self._outputs)

    @property
    def answered(self) -> int:
        """Frames of all cameras whose status has come."""
        return sum(frames.answered for frames in self.frames.values())

    def values(self, camera: NodeCamera) -> dict[str, str]:
        """The node's last diagnostics of a camera; empty before the first."""
        status = self.diagnostics.get(camera.label)
        return {pair.key: pair.value for pair in status.values} if status is not None else {}

    def total(self, *names: str) -> int:
        """The sum of these diagnostics over all cameras."""
        return sum(int(values.get(name, 0)) for values in map(self.values, self.frames) for name in names)

    def _subscribe(
        self, topic: str, type_name: str, on_message: Callable[[bytes, int], None], written: bool = True
    ) -> Any:
        """Subscribe. on_message: called with each message once it is written, and with the steady time of receipt."""
        bag = self._bag if written else None
        connection = bag.add(described_topic(topic, type_name, ())) if bag is not None else 0

        def take(data: bytes) -> None:
            came_ns = time.monotonic_ns()
            if bag is not None:
                bag.write(connection, self._now_ns(), data)
            on_message(data, came_ns)
            self._changed()

        return self.create_subscription(TYPES[type_name], topic, take, QoSProfile(depth=DEPTH), raw=True)

    def _take_output(self, frames: Frames, output: Output, data: bytes, came_ns: int) -> None:
        if output is FRAME_STATUS:
            frames.note_status(deserialize_message(data, DiagnosticArray), came_ns)
        frames.counts[output] += 1

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        parts = [(status.name.partition(": "), status) for status in message.status]
        if own := {label: status for (node, _, label), status in parts if node.endswith("/derain_node")}:
            self.diagnostics = own
            self.heard_ns = time.monotonic_ns()
            self.idle_reports = 0 if self.total("in_flight") else self.idle_reports + 1
            self._changed()


@contextmanager
def new_bag(path: Path, storage: str) -> Iterator[BagWriter]:
    """A recording to write, mcap compressed. Raises BagError."""
    try:
        with BagWriter(path, storage, "chunk" if storage == "mcap" else "none") as bag:
            yield bag
    except (OSError, sqlite3.Error) as err:
        why = (err.strerror or err) if isinstance(err, OSError) else err
        raise BagError(f"{path} cannot be written ({why})") from err
