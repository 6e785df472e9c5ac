"""The node that publishes a recording's messages, with /clock."""

from __future__ import annotations

import argparse
import math
import re
import signal
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

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
from std_srvs.srv import SetBool

from sapnet.bags import Message, Topic
from sapnet.errors import SapnetError, first_line

CLOCK, CLOCK_DEPTH = "/clock", 10
# With a queue of one, Fast DDS asks after each message whether it has come; else only every three seconds.
LOCKSTEP_DEPTH = 1
LONG_GAP_S = 60.0
# Discovery and signals wake no executor.
SLICE_S = 0.05
# Callbacks are served at least so often while messages are late.
SERVE_NS = 10_000_000
# To wait for acknowledgements at a time.
ACKNOWLEDGED = Duration(seconds=0.1)
DEPTH = 10  # of a topic whose QoS was not recorded
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


class BagPlayer(Node):
    """Publishes messages of a recording at their log times; ``qos_overrides`` win over ``profiles``.

    args: of ``bag_publisher.parse``. warn: receives what is unusual, a sentence each. publishers_of: of the topics that
    are played. skipped: topics that cannot be published here, and why. signals: those that came and wait to be obeyed;
    SIGUSR1 pauses or resumes, others end playback.

    /clock carries the recording's time: with each message, and ``--clock-rate`` times per steady second, once playback
    begins. ``~/pause`` stops and resumes time. Not thread-safe: it spins itself, in the thread that waits.
    """

    def __init__(
        self,
        profiles: Mapping[Topic, QoSProfile],
        args: argparse.Namespace,
        warn: Callable[[str], None],
        context: Context,
    ) -> None:
        super().__init__("bag_player", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        self.time = PlayClock(args.rate)
        self.publishers_of: dict[Topic, Any] = {}
        self.skipped: dict[Topic, str] = {}
        self.signals: list[int] = []
        self._warn = warn
        self._max_gap_s = args.max_gap
        self._served_ns = 0
        depth = LOCKSTEP_DEPTH if args.lockstep else CLOCK_DEPTH
        self.clock_publisher = self.create_publisher(Clock, CLOCK, QoSProfile(depth=depth))
        for topic, profile in profiles.items():
            self._advertise(topic, profile)
        self.call_every(1 / args.clock_rate, self._tick)
        self.create_service(SetBool, "~/pause", self._on_pause)

    def call_every(self, period_s: float, call: Callable[[], None]) -> None:
        """Call something again and again, in steady time, while the player waits; it raises what that raises."""
        self.create_timer(period_s, call, clock=RosClock(clock_type=ClockType.STEADY_TIME))

    def begin(self, time_ns: int) -> None:
        """Set the recording's time, which may go back."""
        self.time.set(time_ns)
        self._told_ns = self._next_ns = time_ns
        self.tell_time(time_ns)

    def wait_until(self, time_ns: int) -> None:
        """Wait for a time of the recording; a gap before it may be shortened. Raises PlayerStopped."""
        self._shorten_gap(time_ns)
        self._next_ns = time_ns
        # Callbacks have their turn also while messages are late.
        while (left_s := self.time.seconds_until(time_ns)) > 0 or time.monotonic_ns() - self._served_ns > SERVE_NS:
            self.serve(max(0.0, left_s))
            self._obey()

    def tell_time(self, time_ns: int) -> None:
        """Publish the time, or the last one if a message is late: time goes back only when playback starts over."""
        self._told_ns = max(self._told_ns, time_ns)
        self.clock_publisher.publish(Clock(clock=Time(nanoseconds=self._told_ns).to_msg()))

    def publish(self, message: Message) -> None:
        """Publish a message, without its time."""
        self.publishers_of[message.topic].publish(message.data)

    def wait_acknowledged(self, publisher: Any, timeout_s: float) -> None:
        """Wait until all reliable subscribers have what was published. Raises PlayerError, PlayerStopped."""
        if not self.spin_until(lambda: bool(publisher.wait_for_all_acked(ACKNOWLEDGED)), timeout_s):
            raise PlayerError(f"a subscriber of {publisher.topic_name} did not take a message within {timeout_s:g} s")

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
            self.serve(left_s)

    def serve(self, at_most_s: float) -> None:
        """Wait briefly for a callback, and run it."""
        self._executor.spin_once(timeout_sec=min(at_most_s, SLICE_S))
        self._served_ns = time.monotonic_ns()

    def pause(self, paused: bool) -> None:
        """Stop or resume time."""
        if paused != self.time.paused:
            self.time.pause(paused)
            self.get_logger().info("paused" if paused else "resumed")

    def destroy_node(self) -> None:
        """Free everything."""
        self._executor.shutdown()
        super().destroy_node()

    def _advertise(self, topic: Topic, profile: QoSProfile) -> None:
        kind = message_class(topic.type) if topic.encoding == "cdr" else None
        if kind is None:
            self.skipped[topic] = "its type is not installed here"
            return
        kinds = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
        try:
            self.publishers_of[topic] = self.create_publisher(
                kind, topic.name, profile, qos_overriding_options=QoSOverridingOptions(kinds)
            )
        except (InvalidTopicNameException, RuntimeError) as err:  # a name of ROS 1's, or of two types
            self.skipped[topic] = first_line(err)

    def _shorten_gap(self, time_ns: int) -> None:
        gap_s = (time_ns - self.time.now_ns()) / 1e9
        if 0 < self._max_gap_s < gap_s:
            self.time.set(time_ns - round(self._max_gap_s * 1e9))
            self._warn(f"a gap of {gap_s:.0f} s is shortened to {self._max_gap_s:g} s")
        elif gap_s > LONG_GAP_S:
            self._warn(f"nothing was recorded for {gap_s:.0f} s: waiting; --max-gap S skips such gaps")

    def _obey(self) -> None:
        """Do what signals have asked for."""
        while self.signals:
            if self.signals.pop(0) != signal.SIGUSR1:
                raise PlayerStopped
            self.pause(not self.time.paused)

    def _tick(self) -> None:
        # The next message may be late: /clock must not run ahead of it.
        self.tell_time(min(self.time.now_ns(), self._next_ns))

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.pause(request.data)
        response.success = True
        return response


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


def offered_profile(topic: Topic, reliable: bool = False, depth: int | None = None) -> QoSProfile:
    """The QoS to offer so that every subscriber of the recorded publishers is compatible.

    Without a recorded QoS: reliable, volatile, keep last 10. reliable: be reliable in any case. depth: of the queue, in
    place of the recorded one.
    """
    best_effort = bool(topic.qos) and all(qos.reliability == QosReliability.BEST_EFFORT for qos in topic.qos)
    keeps_all = any(qos.history == QosHistory.KEEP_ALL for qos in topic.qos)
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if keeps_all else HistoryPolicy.KEEP_LAST,
        depth=depth or max((qos.depth for qos in topic.qos), default=0) or DEPTH,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort and not reliable else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_latched(topic) else DurabilityPolicy.VOLATILE,
    )
