"""Lockstep: the player waits for derain_node's answer to each frame, so that a replay does not depend on timing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import islice
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool, Header

from sapnet.bags import Message, Topic
from sapnet.bags.cameras import Camera
from sapnet.bags.recording import Messages
from sapnet.bags.types import deserialize
from sapnet.images.topics import FRAME_STATUS
from sapnet_ros.fate import BUILDING
from sapnet_ros.qos import latched_profile
from sapnet_ros.replay.publisher_node import CLOCK, BagPlayer, PlayerError

STATUS = FRAME_STATUS.name
DEPTH = 100
# A node that does not know a size yet withdraws its readiness within this time.
READINESS_CHANGES_S = 1.0
# Endpoints that have found us may not listen yet.
SETTLE_S = 0.5


FrameKey = tuple[int, str]
"""Stamp in ns and frame_id: they identify a frame of a camera, and in most recordings the camera too."""


class Answers:
    """What derain_node reports: that it is ready, and each frame's status.

    ready: topics of std_msgs/Bool that must all be true. status: topics of type frame_status.
    """

    def __init__(self, player: BagPlayer, ready: Sequence[str], status: Sequence[str]) -> None:
        self._player = player
        self._ready = dict.fromkeys(ready, False)
        self.reasons: dict[FrameKey, str] = {}  # why a frame was not derained; empty if it was
        self.dropped: int | None = None  # frames that the node's diagnostics count as dropped; None before the first
        self.idle_reports = 0  # diagnostics in a row that say that no frame is in flight
        for topic in self._ready:
            player.create_subscription(Bool, topic, partial(self._on_ready, topic), latched_profile())
        self._status = [
            player.create_subscription(DiagnosticArray, topic, self._on_status, QoSProfile(depth=DEPTH))
            for topic in status
        ]
        player.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, QoSProfile(depth=DEPTH))

    @property
    def all_ready(self) -> bool:
        """Whether every ``ready`` topic is true."""
        return all(self._ready.values())

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every ``ready`` topic is true. Raises PlayerError."""
        if not self._player.spin_until(lambda: self.all_ready, timeout_s):
            late = ", ".join(self._player.resolve_topic_name(name) for name, ready in self._ready.items() if not ready)
            raise PlayerError(f"nothing was ready on {late} within {timeout_s:g} s; is derain_node running?")

    def wait_connected(self, timeout_s: float) -> None:
        """Wait until the publishers of all answers are connected. Raises PlayerError."""

        def lonely() -> list[str]:
            return [one.topic_name for one in self._status if not one.get_publisher_count()]

        def connected() -> bool:
            return not lonely() and (self.dropped is not None or not self._status)

        if not self._player.spin_until(connected, timeout_s):
            missing = ", ".join(lonely()) or "/diagnostics"
            raise PlayerError(f"nobody publishes {missing} within {timeout_s:g} s; is derain_node running?")
        self._player.spin_until(lambda: False, SETTLE_S)

    def _on_ready(self, topic: str, message: Bool) -> None:
        self._ready[topic] = message.data

    def _on_status(self, message: DiagnosticArray) -> None:
        values = {pair.key: pair.value for status in message.status for pair in status.values}
        self.reasons[stamp_of(message.header), message.header.frame_id] = values.get("reason", "")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        statuses = [{pair.key: pair.value for pair in status.values} for status in message.status]
        cameras = [values for values in statuses if "in_flight" in values and "dropped" in values]
        if cameras:
            self.dropped = sum(int(values["dropped"]) for values in cameras)
            self.idle_reports = 0 if any(int(values["in_flight"]) for values in cameras) else self.idle_reports + 1


class Lockstep:
    """Sends a recording's messages, and goes on from each frame's time once that is answered.

    A frame is answered by its status, or by diagnostics that count one more dropped frame. It is sent once the node has
    acknowledged all earlier camera_info, and all reliable subscribers of /clock, such as the recorder, its time.
    """

    def __init__(
        self, player: BagPlayer, answers: Answers, cameras: Sequence[Camera], ready_s: float, answer_s: float
    ) -> None:
        self._player = player
        self._answers = answers
        self._frames = {camera.topic for camera in cameras if camera.topic in player.topics}
        self._infos = {camera.info for camera in cameras if camera.info is not None and camera.info in player.topics}
        self._ready_s = ready_s
        self._answer_s = answer_s

    def begin(self, messages: Callable[[Collection[Topic]], Messages], sizes_known: bool) -> None:
        """Wait until derain_node is subscribed and ready. Raises PlayerError.

        Each camera's first camera_info is sent ahead, so that the node learns the frame size. Without any, and unless
        ``sizes_known``, it learns the size from the first frame, which then passes through.
        messages: like Recording.messages, for the span that is played.
        """
        player, topics = self._player, self._frames | self._infos
        if not player.spin_until(lambda: all(player.subscribers(topic) for topic in topics), self._ready_s):
            missing = ", ".join(sorted(topic.name for topic in topics if not player.subscribers(topic)))
            raise PlayerError(
                f"nobody subscribed to {missing} within {self._ready_s:g} s; remap derain_node's image to the camera"
            )
        infos = [info for topic in self._infos for info in islice(messages([topic]), 1)]
        for info in infos:
            player.publish(info)
            self._hand_over(info)
        if infos or sizes_known:
            self._answers.wait_ready(self._ready_s)
        self._answers.wait_connected(self._ready_s)

    def send(self, message: Message) -> None:
        """Publish a message, and wait for the answer if it is a frame. Raises PlayerError."""
        if message.topic not in self._frames:
            self._player.send(message)
            if message.topic in self._infos:
                self._hand_over(message)
            return
        key = frame_key(message)
        if not self._player.tell_time(message.time_ns, self._answer_s):
            raise PlayerError(f"a subscriber of {CLOCK} did not take the time within {self._answer_s:g} s")
        self._answers.reasons.clear()
        dropped = self._answers.dropped
        self._player.publish(message)
        if key is None:
            self._await_drop(dropped)
        else:
            self._await(message, key, dropped)
        self._player.time.set(message.time_ns)

    def _await_drop(self, dropped: int | None) -> None:
        """Wait until a damaged frame is counted as dropped, so that its count is not taken for a later frame's.

        A frame that the node's middleware rejects is never counted: then wait for two diagnostics without a frame in
        flight.
        """
        answers = self._answers
        answers.idle_reports = 0
        self._player.spin_until(lambda: answers.dropped != dropped or answers.idle_reports > 1, self._answer_s)

    def _hand_over(self, info: Message) -> None:
        if not self._player.wait_taken(info.topic, self._answer_s):
            raise PlayerError(f"a subscriber of {info.topic.name} did not take a message within {self._answer_s:g} s")

    def _await(self, message: Message, key: FrameKey, dropped: int | None) -> None:
        player, answers = self._player, self._answers

        def answered() -> bool:
            return key in answers.reasons or answers.dropped != dropped

        if not player.spin_until(answered, self._answer_s):
            raise PlayerError(
                f"derain_node gave no answer to the frame of {message.topic.name} at {key[0]} ns "
                f"within {self._answer_s:g} s"
            )
        if answers.reasons.get(key) == BUILDING:
            player.spin_until(lambda: not answers.all_ready, READINESS_CHANGES_S)
            answers.wait_ready(self._ready_s)


def stamp_of(header: Header) -> int:
    """Nanoseconds."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def frame_key(message: Message) -> FrameKey | None:
    """The key of an image message; None if it is too damaged to be deserialized."""
    try:
        header: Any = deserialize(message.data, message.topic.type).header
    except ValueError:
        return None
    return stamp_of(header), header.frame_id
