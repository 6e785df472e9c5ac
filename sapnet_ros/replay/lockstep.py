"""Lockstep: the player waits for derain_node's answer to each frame, so that a replay does not depend on timing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool

from sapnet.bags import Message, Recording
from sapnet.bags.cameras import Camera
from sapnet.bags.types import deserialize
from sapnet.images.topics import FRAME_STATUS
from sapnet_ros.fate import BUILDING
from sapnet_ros.qos import latched_profile
from sapnet_ros.replay.publisher_node import CLOCK, BagPlayer, PlayerError
from sapnet_ros.reports import Report, read

STATUS = FRAME_STATUS.name
DEPTH = 100
# Building an engine may take minutes; the node reports its progress meanwhile.
READY_TIMEOUT_S = 600.0
# For the node to start, with all that it imports.
CONNECT_TIMEOUT_S = 180.0
# A node that does not know a size yet withdraws its readiness within this time.
READINESS_CHANGES_S = 1.0
# Endpoints that have found us may not listen yet.
SETTLE_S = 0.5


class Answers:
    """What derain_node reports: that it is ready, each frame's status, and its diagnostics.

    ready: topics of std_msgs/Bool that must all be true. status: topics of type frame_status.
    """

    def __init__(self, player: BagPlayer, ready: Sequence[str], status: Sequence[str]) -> None:
        self._player = player
        self._ready = dict.fromkeys(ready, False)
        self.reasons: dict[int, str] = {}  # why a frame was not derained, by its stamp; empty if it was
        self.report, self.report_s = Report(""), 0.0  # the last diagnostics, and when they came, in steady time
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

    def total(self, *names: str) -> int:
        """The sum of these figures over all cameras, by the last diagnostics."""
        return sum(int(camera.values[name]) for camera in self.report.cameras.values() for name in names)

    def wait_ready(self) -> None:
        """Wait until every ``ready`` topic is true. Raises PlayerError."""
        if not self._player.spin_until(lambda: self.all_ready, READY_TIMEOUT_S):
            late = ", ".join(self._player.resolve_topic_name(name) for name, ready in self._ready.items() if not ready)
            raise PlayerError(f"nothing was ready on {late} within {READY_TIMEOUT_S:g} s; is derain_node running?")

    def wait_connected(self) -> None:
        """Wait until the publishers of all answers are connected. Raises PlayerError."""

        def lonely() -> list[str]:
            topics = [one.topic_name for one in self._status if not one.get_publisher_count()]
            return [*topics, *(["/diagnostics"] if self._status and not self.report_s else [])]

        if not self._player.spin_until(lambda: not lonely(), CONNECT_TIMEOUT_S):
            missing = ", ".join(lonely())
            raise PlayerError(f"nobody publishes {missing} within {CONNECT_TIMEOUT_S:g} s; is derain_node running?")
        self._player.spin_until(lambda: False, SETTLE_S)

    def _on_ready(self, topic: str, message: Bool) -> None:
        self._ready[topic] = message.data

    def _on_status(self, message: DiagnosticArray) -> None:
        values = {pair.key: pair.value for status in message.status for pair in status.values}
        self.reasons[stamp_of(message)] = values.get("reason", "")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for report in read(message):
            if report.cameras:  # which a node has once it is configured
                self.report, self.report_s = report, time.monotonic()
                self.idle_reports = 0 if self.total("in_flight") else self.idle_reports + 1


class Lockstep:
    """Sends a recording's messages, and goes on from each frame's time once that is answered.

    A frame is answered by its status, or by diagnostics that count one more dropped frame. It is sent once the node has
    acknowledged all earlier camera_info, and all reliable subscribers of /clock, such as the recorder, its time.
    """

    def __init__(self, player: BagPlayer, answers: Answers, cameras: Sequence[Camera], answer_s: float) -> None:
        self._player = player
        self._answers = answers
        self._frames = {camera.topic for camera in cameras if camera.topic in player.topics}
        self._infos = {camera.info for camera in cameras if camera.info is not None and camera.info in player.topics}
        self._answer_s = answer_s

    def begin(self, source: Recording, start_ns: int, sizes_known: bool) -> None:
        """Wait until derain_node is subscribed and ready. Raises PlayerError.

        Each camera's first camera_info from the start on, or else its first one, is sent ahead, so that the node learns
        the frame size. Without any, and unless ``sizes_known``, it learns the size from the first frame, which then
        passes through.
        """
        player, topics = self._player, self._frames | self._infos
        if not player.spin_until(lambda: all(player.subscribers(topic) for topic in topics), CONNECT_TIMEOUT_S):
            missing = ", ".join(sorted(topic.name for topic in topics if not player.subscribers(topic)))
            raise PlayerError(
                f"nobody subscribed to {missing} within {CONNECT_TIMEOUT_S:g} s; "
                "remap derain_node's image to the camera"
            )
        firsts = (chain(source.messages([topic], start_ns), source.messages([topic])) for topic in self._infos)
        infos = [info for messages in firsts for info in islice(messages, 1)]
        for info in infos:
            player.publish(info)
            self._hand_over(info)
        if infos or sizes_known:
            self._answers.wait_ready()
        self._answers.wait_connected()

    def send(self, message: Message) -> None:
        """Publish a message, and wait for the answer if it is a frame. Raises PlayerError."""
        player, answers = self._player, self._answers
        if message.topic not in self._frames:
            player.send(message)
            if message.topic in self._infos:
                self._hand_over(message)
            return
        if not player.tell_time(message.time_ns, self._answer_s):
            raise PlayerError(f"a subscriber of {CLOCK} did not take the time within {self._answer_s:g} s")
        answers.reasons.clear()
        dropped, answers.idle_reports = answers.total("dropped"), 0
        player.publish(message)
        try:
            stamp = stamp_of(deserialize(message.data, message.topic.type))
        except ValueError:
            # Too damaged for the node to read: it is counted as dropped, which must not be taken for a later frame's
            # answer, or rejected by its middleware and never counted.
            player.spin_until(lambda: answers.total("dropped") != dropped or answers.idle_reports > 1, self._answer_s)
        else:
            self._await(message, stamp, dropped)
        player.time.set(message.time_ns)

    def _hand_over(self, info: Message) -> None:
        if not self._player.wait_taken(info.topic, self._answer_s):
            raise PlayerError(f"a subscriber of {info.topic.name} did not take a message within {self._answer_s:g} s")

    def _await(self, message: Message, stamp: int, dropped: int) -> None:
        player, answers = self._player, self._answers
        if not player.spin_until(
            lambda: stamp in answers.reasons or answers.total("dropped") != dropped, self._answer_s
        ):
            raise PlayerError(
                f"derain_node gave no answer to the frame of {message.topic.name} at {stamp} ns "
                f"within {self._answer_s:g} s"
            )
        if answers.reasons.get(stamp) == BUILDING:
            player.spin_until(lambda: not answers.all_ready, READINESS_CHANGES_S)
            answers.wait_ready()


def stamp_of(message: Any) -> int:
    """Nanoseconds of a message's header."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)
