"""Plays a recording at its own pace, or in lockstep with derain_node, so that nothing depends on timing."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Bool

from sapnet.bags import Message, Recording, Topic
from sapnet.bags.cameras import Camera, find_cameras
from sapnet.bags.types import deserialize
from sapnet.errors import BagError
from sapnet.images.topics import FRAME_STATUS
from sapnet_ros.fate import BUILDING
from sapnet_ros.qos import latched_profile
from sapnet_ros.replay.plan import READY
from sapnet_ros.replay.publisher_node import (
    CLOCK,
    LOCKSTEP_DEPTH,
    BagPlayer,
    PlayerError,
    is_latched,
    offered_profile,
)
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


class Playback:
    """Plays a recording, and keeps what derain_node reports meanwhile.

    args: of ``bag_publisher.parse``. warn: receives what is unusual, a sentence each. report, report_s: the last
    diagnostics, and when they came, in steady time. idle_reports: diagnostics in a row that say that no frame is in
    flight.
    """

    def __init__(
        self,
        source: Recording,
        args: argparse.Namespace,
        warn: Callable[[str], None],
        player: BagPlayer,
        cameras: Sequence[Camera],
    ) -> None:
        self.player, self.report, self.report_s, self.idle_reports = player, Report(""), 0.0, 0
        self._source, self.args, self._warn = source, args, warn
        self._span = span(source, args.start, args.duration)
        frames, infos = {camera.topic for camera in cameras}, {camera.info for camera in cameras}
        self._frames = {topic for topic in player.publishers_of if topic in frames}
        self._infos = {topic for topic in player.publishers_of if topic in infos}
        self._ready = dict.fromkeys(args.ready or ([READY] if args.lockstep else []), False)
        for topic in self._ready:
            player.create_subscription(Bool, topic, partial(self._on_ready, topic), latched_profile())
        player.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, QoSProfile(depth=DEPTH))

    def run(self, on_frame: Callable[[Message], None] = lambda frame: None) -> None:
        """Play the chosen span, repeatedly with ``--loop``. on_frame: receives each frame before it is sent.

        Raises PlayerError, PlayerStopped, and what ``on_frame`` raises.
        """
        source, player, (start_ns, stop_ns) = self._source, self.player, self._span
        notes = list(source.notes)
        for note in notes:
            self._warn(note)
        player.begin(start_ns)
        self._wait_ready()
        player.spin_until(lambda: False, SETTLE_S)
        latched = [topic for topic in player.publishers_of if is_latched(topic)]
        while True:
            player.begin(start_ns)
            for message in source.messages(latched, stop_ns=start_ns):
                player.publish(message)
            for message in source.messages(player.publishers_of, start_ns, stop_ns):
                player.wait_until(message.time_ns)
                if message.topic in self._frames:
                    on_frame(message)
                self._send(message)
            if not self.args.loop:
                break
        # Messages in transit are lost when their publisher ends.
        for topic in self._frames:
            self._wait_acknowledged(topic)
        player.spin_until(lambda: False, SETTLE_S)
        for note in source.notes[len(notes) :]:
            self._warn(note)

    def total(self, *names: str) -> int:
        """The sum of these figures over all cameras, by the last diagnostics."""
        return sum(int(camera.values[name]) for camera in self.report.cameras.values() for name in names)

    def _wait_ready(self) -> None:
        """Wait until every ``--ready`` topic is true. Raises PlayerError."""
        if not self.player.spin_until(lambda: all(self._ready.values()), READY_TIMEOUT_S):
            late = ", ".join(self.player.resolve_topic_name(name) for name, ready in self._ready.items() if not ready)
            raise PlayerError(f"nothing was ready on {late} within {READY_TIMEOUT_S:g} s; is derain_node running?")

    def _send(self, message: Message) -> None:
        """Publish a message, with its time. Raises PlayerError."""
        self.player.tell_time(message.time_ns)
        self.player.publish(message)

    def _wait_acknowledged(self, topic: Topic) -> None:
        self.player.wait_acknowledged(self.player.publishers_of[topic], self.args.answer_timeout)

    def _on_ready(self, topic: str, message: Bool) -> None:
        self._ready[topic] = message.data

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for report in read(message):
            if report.cameras:  # which a node has once it is configured
                self.report, self.report_s = report, time.monotonic()
                self.idle_reports = 0 if self.total("in_flight") else self.idle_reports + 1


class Lockstep(Playback):
    """Goes on from each frame's time once that is answered.

    A frame is answered by its status, or by diagnostics that count one more dropped frame. It is sent once the node has
    acknowledged all earlier camera_info, and all reliable subscribers of /clock, such as the recorder, its time.
    """

    def __init__(self, source: Recording, args: argparse.Namespace, *others: Any) -> None:
        super().__init__(source, args, *others)
        self._reasons: dict[int, str] = {}  # why a frame was not derained, by its stamp; empty if it was
        self._status = [
            self.player.create_subscription(DiagnosticArray, topic, self._on_status, QoSProfile(depth=DEPTH))
            for topic in args.status or [STATUS]
        ]

    def _wait_ready(self) -> None:
        """Wait until derain_node is connected and ready.

        Each camera's first camera_info from the start on, or else its first one, is sent ahead, so that the node learns
        the frame size. Without any, and unless ``--ready`` names what knows it, the node learns it from the first
        frame, which then passes through.
        """
        if not self.player.spin_until(lambda: not self._missing(), CONNECT_TIMEOUT_S):
            raise PlayerError(
                f"there is no {', no '.join(self._missing())} within {CONNECT_TIMEOUT_S:g} s; "
                "is derain_node running, and its image remapped to the camera?"
            )
        messages = self._source.messages
        firsts = [next(chain(messages([topic], self._span[0]), messages([topic])), None) for topic in self._infos]
        for info in firsts:
            if info is not None:
                self.player.publish(info)
                self._wait_acknowledged(info.topic)
        if any(firsts) or self.args.ready:
            super()._wait_ready()

    def _missing(self) -> list[str]:
        """What is not connected yet."""
        player = self.player
        listened = [player.publishers_of[topic] for topic in self._frames | self._infos]
        missing = [f"subscriber of {one.topic_name}" for one in listened if not one.get_subscription_count()]
        missing += [f"publisher of {one.topic_name}" for one in self._status if not one.get_publisher_count()]
        return missing if self.report_s else [*missing, "message of derain_node on /diagnostics"]

    def _send(self, message: Message) -> None:
        """Publish a message, and wait for the answer if it is a frame."""
        player, answer_s = self.player, self.args.answer_timeout
        if message.topic not in self._frames:
            super()._send(message)
            if message.topic in self._infos:
                self._wait_acknowledged(message.topic)
            return
        player.tell_time(message.time_ns)
        player.wait_acknowledged(player.clock_publisher, answer_s)
        self._reasons.clear()
        dropped, self.idle_reports = self.total("dropped"), 0
        player.publish(message)
        try:
            stamp = stamp_of(deserialize(message.data, message.topic.type))
        except ValueError:
            # Too damaged for the node to read: it is counted as dropped, which must not be taken for a later frame's
            # answer, or rejected by its middleware and never counted.
            player.spin_until(lambda: self.total("dropped") != dropped or self.idle_reports > 1, answer_s)
        else:
            if not player.spin_until(lambda: stamp in self._reasons or self.total("dropped") != dropped, answer_s):
                raise PlayerError(
                    f"derain_node gave no answer to the frame of {message.topic.name} at {stamp} ns "
                    f"within {answer_s:g} s"
                )
            if self._reasons.get(stamp) == BUILDING:
                player.spin_until(lambda: not all(self._ready.values()), READINESS_CHANGES_S)
                super()._wait_ready()
        player.time.set(message.time_ns)

    def _on_status(self, message: DiagnosticArray) -> None:
        values = {pair.key: pair.value for status in message.status for pair in status.values}
        self._reasons[stamp_of(message)] = values.get("reason", "")


@contextmanager
def open_playback(
    source: Recording,
    args: argparse.Namespace,
    warn: Callable[[str], None],
    ros_args: list[str] | None,
    signals: Iterable[signal.Signals],
) -> Iterator[Playback]:
    """What plays a recording, in the main thread. ros_args: of rclpy. signals: that it obeys. Raises BagError."""
    if missing := set(args.topic) - {topic.name for topic in source.topics}:
        raise BagError(f"{source.path} has no topic {', '.join(sorted(missing))}")
    cameras = find_cameras(source, args.camera) if args.lockstep or args.camera else []
    # Reliable, so that no frame is lost, whatever was recorded. First, for of two topics of one name and different
    # types the first alone can be published.
    reliable = {topic for camera in cameras for topic in (camera.topic, camera.info)}
    profiles = {
        topic: offered_profile(
            topic, topic in reliable, LOCKSTEP_DEPTH if topic in reliable and args.lockstep else None
        )
        for topic in sorted(source.topics, key=lambda topic: topic not in reliable)
        if (not args.topic or topic.name in args.topic) and topic.name not in (CLOCK, *args.exclude)
    }
    with ExitStack() as stack:
        context = rclpy.Context()
        rclpy.init(args=ros_args, context=context, signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown, context=context)
        player = BagPlayer(profiles, args, warn, context)
        stack.callback(player.destroy_node)
        for camera in cameras:
            if camera.topic in player.skipped:
                raise BagError(f"{camera.topic.name} cannot be published: {player.skipped[camera.topic]}")
        if player.skipped:
            reasons = "; ".join(f"{topic.name} ({topic.type}): {why}" for topic, why in player.skipped.items())
            warn(f"not played: {reasons}")
        for number in signals:
            before = signal.signal(number, lambda number, _: player.signals.append(number))
            stack.callback(signal.signal, number, before)
        yield (Lockstep if args.lockstep else Playback)(source, args, warn, player, cameras)


def span(source: Recording, start_s: float, duration_s: float) -> tuple[int, int]:
    """First log time to play, and the one to stop before. Raises BagError if that is empty."""
    start_ns = source.start_ns + round(start_s * 1e9)
    stop_ns = min(source.end_ns, start_ns + round(duration_s * 1e9)) if duration_s else source.end_ns
    if start_ns >= stop_ns:
        length_s = (source.end_ns - source.start_ns) / 1e9
        raise BagError(f"{source.path} is {length_s:.3f} s long; there is nothing to play from {start_s:g} s on")
    return start_ns, stop_ns


def stamp_of(message: Any) -> int:
    """Nanoseconds of a message's header."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)
