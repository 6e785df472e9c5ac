"""The node that plays a recording at its own pace, with /clock."""

from __future__ import annotations

import argparse
import math
import re
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.time import Time
from rosbags.interfaces import QosDurability, QosHistory, QosReliability
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from sapnet.bags import Message, Recording, Topic
from sapnet.bags.cameras import Camera
from sapnet.errors import BagError, SapnetError, first_line
from sapnet_ros.qos import latched_profile
from sapnet_ros.replay.plan import READY
from sapnet_ros.reports import Report, read

CLOCK = "/clock"
# Building an engine may take minutes; the node reports its progress meanwhile.
READY_TIMEOUT_S = 600.0
# Endpoints that have found us may not listen yet.
SETTLE_S = 0.5
# With a queue of one, Fast DDS asks after each message whether it has come; else only every three seconds.
LOCKSTEP_DEPTH = 1
LONG_GAP_S = 60.0
# Discovery and signals wake no executor.
SLICE_S = 0.05
# Callbacks are served at least so often while messages are late.
SERVE_NS = 10_000_000
# To wait for acknowledgements at a time.
ACKNOWLEDGED = Duration(seconds=0.1)
DEPTH = 10  # of /clock, and of a topic whose QoS was not recorded
REPORTS_DEPTH = 100
OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
# Names come from the recording, and are imported.
_TYPE = re.compile(r"([a-z][a-z0-9_]*)/(msg|srv|action)/([A-Z][A-Za-z0-9_]*)")


class PlayerError(SapnetError):
    """Nobody listens, or what was sent does not come back."""


class PlayerStopped(KeyboardInterrupt):
    """A signal asked the player to end."""


class PlayClock:
    """Recording time in nanoseconds, which runs ``rate`` times as fast as steady time unless it is paused."""

    def __init__(self, rate: float, steady_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.paused = False
        self._rate = rate
        self._steady_ns = steady_ns
        self.set(0)

    def now_ns(self) -> int:
        """The current time."""
        passed_ns = 0 if self.paused else self._steady_ns() - self._set_at_ns
        return self._set_to_ns + int(passed_ns * self._rate)

    def set(self, time_ns: int) -> None:
        """Set the current time."""
        self._set_to_ns, self._set_at_ns = time_ns, self._steady_ns()

    def pause(self, paused: bool) -> None:
        """Stop the clock, or let it go on."""
        self.set(self.now_ns())
        self.paused = paused

    def seconds_until(self, time_ns: int) -> float:
        """Steady seconds until a time; negative if it has passed, infinite while the clock is paused."""
        return math.inf if self.paused else (time_ns - self.now_ns()) / 1e9 / self._rate


class Player(Node):
    """Publishes a recording's messages at their log times, and keeps what derain_node reports meanwhile.

    cameras: whose topics are offered as reliable, so that no frame is lost, whatever was recorded. args: of
    ``bag_publisher.parse``. warn: receives what is unusual, a sentence each. publishers_of: of the topics that are
    played. signals: those that came and wait to be obeyed; SIGUSR1 pauses or resumes, others end playback. report,
    report_s: the last diagnostics, and when they came, in steady time. idle_reports: diagnostics in a row that say that
    no frame is in flight.

    /clock carries the recording's time: with each message, and ``--clock-rate`` times per steady second, once playback
    begins. ``~/pause`` stops and resumes time. Not thread-safe: it spins itself, in the thread that waits. Raises
    BagError where there is nothing to play.
    """

    def __init__(
        self,
        source: Recording,
        cameras: Sequence[Camera],
        args: argparse.Namespace,
        warn: Callable[[str], None],
        context: Context,
    ) -> None:
        super().__init__("bag_player", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        self.args, self.time, self.signals = args, PlayClock(args.rate), list[int]()
        self.report, self.report_s, self.idle_reports = Report(""), 0.0, 0
        self._source, self._warn, self._served_ns = source, warn, 0
        self._span = span(source, args.start, args.duration)
        depth = LOCKSTEP_DEPTH if args.lockstep else DEPTH
        self.clock_publisher = self.create_publisher(Clock, CLOCK, QoSProfile(depth=depth))
        self.publishers_of = self._advertise(cameras)
        self._frames = {camera.topic for camera in cameras} & self.publishers_of.keys()
        self._infos = {camera.info for camera in cameras} & self.publishers_of.keys()
        self._ready = dict.fromkeys(args.ready or ([READY] if args.lockstep else []), False)
        for topic in self._ready:
            self.create_subscription(Bool, topic, partial(self._on_ready, topic), latched_profile())
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, REPORTS_DEPTH)
        self.call_every(1 / args.clock_rate, self._tick)
        self.create_service(SetBool, "~/pause", self._on_pause)

    def run(self, on_frame: Callable[[Message], None] = lambda frame: None) -> None:
        """Play the chosen span, repeatedly with ``--loop``. on_frame: receives each frame before it is sent.

        Raises PlayerError, PlayerStopped, and what ``on_frame`` raises.
        """
        source, (start_ns, stop_ns) = self._source, self._span
        notes = list(source.notes)
        for note in notes:
            self._warn(note)
        self._begin(start_ns)
        self._wait_ready()
        self.spin_until(lambda: False, SETTLE_S)
        latched = [topic for topic in self.publishers_of if is_latched(topic)]
        while True:
            self._begin(start_ns)
            for message in source.messages(latched, stop_ns=start_ns):
                self.publishers_of[message.topic].publish(message.data)
            for message in source.messages(self.publishers_of, start_ns, stop_ns):
                self._wait_until(message.time_ns)
                if message.topic in self._frames:
                    on_frame(message)
                self._send(message)
            if not self.args.loop:
                break
        # Messages in transit are lost when their publisher ends.
        for topic in self._frames:
            self._wait_acknowledged(self.publishers_of[topic])
        self.spin_until(lambda: False, SETTLE_S)
        for note in source.notes[len(notes) :]:
            self._warn(note)

    def call_every(self, period_s: float, call: Callable[[], None]) -> None:
        """Call something again and again, in steady time, while the player waits; it raises what that raises."""
        self.create_timer(period_s, call, clock=RosClock(clock_type=ClockType.STEADY_TIME))

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Serve callbacks until ``condition`` holds; whether it did in time. Raises PlayerStopped."""
        until_s = time.monotonic() + timeout_s
        while True:
            self._obey()
            if condition():
                return True
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            self._serve(left_s)

    def total(self, *names: str) -> int:
        """The sum of these figures over all cameras, by the last diagnostics."""
        return sum(int(camera.values[name]) for camera in self.report.cameras.values() for name in names)

    def _advertise(self, cameras: Sequence[Camera]) -> dict[Topic, Any]:
        """Publishers of the topics to play; ``qos_overrides`` win over what was recorded."""
        args, publishers, skipped = self.args, dict[Topic, Any](), dict[Topic, str]()
        reliable = {topic for camera in cameras for topic in (camera.topic, camera.info)}
        # These first, for of two topics of one name and different types the first alone can be published.
        for topic in sorted(self._source.topics, key=lambda topic: topic not in reliable):
            if (args.topic and topic.name not in args.topic) or topic.name in (CLOCK, *args.exclude):
                continue
            kind = message_class(topic.type) if topic.encoding == "cdr" else None
            if kind is None:
                skipped[topic] = "its type is not installed here"
                continue
            profile = offered_profile(topic)
            if topic in reliable:
                profile.reliability = ReliabilityPolicy.RELIABLE
                profile.depth = LOCKSTEP_DEPTH if args.lockstep else profile.depth
            overrides = QoSOverridingOptions(OVERRIDABLE)
            try:
                publishers[topic] = self.create_publisher(kind, topic.name, profile, qos_overriding_options=overrides)
            except (InvalidTopicNameException, RuntimeError) as err:  # a name of ROS 1's, or of two types
                skipped[topic] = first_line(err)
        for camera in cameras:
            if camera.topic in skipped:
                raise BagError(f"{camera.topic.name} cannot be published: {skipped[camera.topic]}")
        if skipped:
            reasons = "; ".join(f"{topic.name} ({topic.type}): {why}" for topic, why in skipped.items())
            self._warn(f"not played: {reasons}")
        return publishers

    def _begin(self, time_ns: int) -> None:
        """Set the recording's time, which may go back."""
        self.time.set(time_ns)
        self._told_ns = self._next_ns = time_ns
        self._tell_time(time_ns)

    def _wait_ready(self) -> None:
        """Wait until every ``--ready`` topic is true. Raises PlayerError."""
        if not self.spin_until(lambda: all(self._ready.values()), READY_TIMEOUT_S):
            late = ", ".join(self.resolve_topic_name(name) for name, ready in self._ready.items() if not ready)
            raise PlayerError(f"nothing was ready on {late} within {READY_TIMEOUT_S:g} s; is derain_node running?")

    def _wait_until(self, time_ns: int) -> None:
        """Wait for a time of the recording; a gap before it may be shortened. Raises PlayerStopped."""
        gap_s, max_gap_s = (time_ns - self.time.now_ns()) / 1e9, self.args.max_gap
        if 0 < max_gap_s < gap_s:
            self.time.set(time_ns - round(max_gap_s * 1e9))
            self._warn(f"a gap of {gap_s:.0f} s is shortened to {max_gap_s:g} s")
        elif gap_s > LONG_GAP_S:
            self._warn(f"nothing was recorded for {gap_s:.0f} s: waiting; --max-gap S skips such gaps")
        self._next_ns = time_ns
        # Callbacks have their turn also while messages are late.
        while (left_s := self.time.seconds_until(time_ns)) > 0 or time.monotonic_ns() - self._served_ns > SERVE_NS:
            self._serve(max(0.0, left_s))
            self._obey()

    def _wait_acknowledged(self, publisher: Any) -> None:
        """Wait until all reliable subscribers have what was published. Raises PlayerError, PlayerStopped."""
        timeout_s = self.args.answer_timeout
        if not self.spin_until(lambda: bool(publisher.wait_for_all_acked(ACKNOWLEDGED)), timeout_s):
            raise PlayerError(f"a subscriber of {publisher.topic_name} did not take a message within {timeout_s:g} s")

    def _tell_time(self, time_ns: int) -> None:
        """Publish the time, or the last one if a message is late: time goes back only when playback starts over."""
        self._told_ns = max(self._told_ns, time_ns)
        self.clock_publisher.publish(Clock(clock=Time(nanoseconds=self._told_ns).to_msg()))

    def _send(self, message: Message) -> None:
        """Publish a message, with its time. Raises PlayerError."""
        self._tell_time(message.time_ns)
        self.publishers_of[message.topic].publish(message.data)

    def _serve(self, at_most_s: float) -> None:
        """Wait briefly for a callback, and run it."""
        self._executor.spin_once(timeout_sec=min(at_most_s, SLICE_S))
        self._served_ns = time.monotonic_ns()

    def _obey(self) -> None:
        """Do what signals have asked for."""
        while self.signals:
            if self.signals.pop(0) != signal.SIGUSR1:
                raise PlayerStopped
            self._pause(not self.time.paused)

    def _pause(self, paused: bool) -> None:
        """Stop or resume time."""
        if paused != self.time.paused:
            self.time.pause(paused)
            self.get_logger().info("paused" if paused else "resumed")

    def _tick(self) -> None:
        # The next message may be late: /clock must not run ahead of it.
        self._tell_time(min(self.time.now_ns(), self._next_ns))

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._pause(request.data)
        response.success = True
        return response

    def _on_ready(self, topic: str, message: Bool) -> None:
        self._ready[topic] = message.data

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for report in read(message):
            if report.cameras:  # which a node has once it is configured
                self.report, self.report_s = report, time.monotonic()
                self.idle_reports = 0 if self.total("in_flight") else self.idle_reports + 1


def span(source: Recording, start_s: float, duration_s: float) -> tuple[int, int]:
    """First log time to play, and the one to stop before. Raises BagError if that is empty."""
    start_ns = source.start_ns + round(start_s * 1e9)
    stop_ns = min(source.end_ns, start_ns + round(duration_s * 1e9)) if duration_s else source.end_ns
    if start_ns >= stop_ns:
        length_s = (source.end_ns - source.start_ns) / 1e9
        raise BagError(f"{source.path} is {length_s:.3f} s long; there is nothing to play from {start_s:g} s on")
    return start_ns, stop_ns


def message_class(type_name: str) -> type | None:
    """The class of ``package/msg/Name``; None where that is not installed here."""
    if (match := _TYPE.fullmatch(type_name)) is None:
        return None
    try:
        found = getattr(import_module(f"{match[1]}.{match[2]}"), match[3], None)
    except ImportError:
        return None
    return found if isinstance(found, type) and hasattr(found, "get_fields_and_field_types") else None


def is_latched(topic: Topic) -> bool:
    """Whether late subscribers receive earlier messages."""
    return any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in topic.qos)


def offered_profile(topic: Topic) -> QoSProfile:
    """The QoS to offer so that every subscriber of the recorded publishers is compatible.

    Without a recorded QoS: reliable, volatile, keep last 10.
    """
    best_effort = bool(topic.qos) and all(qos.reliability == QosReliability.BEST_EFFORT for qos in topic.qos)
    keeps_all = any(qos.history == QosHistory.KEEP_ALL for qos in topic.qos)
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if keeps_all else HistoryPolicy.KEEP_LAST,
        depth=max((qos.depth for qos in topic.qos), default=0) or DEPTH,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_latched(topic) else DurabilityPolicy.VOLATILE,
    )
