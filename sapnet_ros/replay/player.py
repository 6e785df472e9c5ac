"""The node that publishes a recording's messages, with /clock."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from threading import Event
from types import MappingProxyType
from typing import Any

from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosbags.interfaces import QosDurability, QosHistory, QosReliability
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from sapnet.bags import Message, Recording, Topic
from sapnet.errors import BagError, SapnetError, first_line
from sapnet_ros.qos import latched_profile
from sapnet_ros.replay.clock import PlayClock

CLOCK = "/clock"
CLOCK_HZ = 40.0
LONG_GAP_S = 60.0
# Building an engine may take minutes; the node reports its progress meanwhile.
READY_TIMEOUT_S = 600.0
# Endpoints that have found us may not listen yet.
SETTLE_S = 0.5
# What changes without a callback, such as the endpoints that are known, is looked at so often.
LOOK_S = 0.025
ACKNOWLEDGED = Duration(seconds=LOOK_S)
DEPTH = 10  # of a topic whose QoS was not recorded
# Names come from the recording, and are imported.
_TYPE = re.compile(r"([a-z][a-z0-9_]*)/(msg|srv|action)/([A-Z][A-Za-z0-9_]*)")


class RunError(SapnetError):
    """The node failed, does not answer, or has derained nothing."""


class BagPlayer(Node):
    """Publishes messages of ``topics`` at their log times, with their recorded QoS; ``qos_overrides`` win.

    start_ns: the first log time. profiles: QoS that replaces the recorded one. skipped: topics that cannot be published
    here, and why. max_gap_s: longer gaps between messages are shortened to it, in seconds of the recording; 0 keeps all
    gaps. warn: receives warnings. look: called at least every 25 ms while the player waits, and for each message; what
    it raises ends the playback. told_ns: the newest time on /clock, which carries the recording's time with each
    message, and ``clock_hz`` times per steady second.

    All is done in the thread that plays, but for ``~/pause``, which stops and resumes time, and ``ready``: they need
    ``spinning``. changed: ends a wait early, to look at its condition again.
    """

    def __init__(
        self,
        topics: Iterable[Topic],
        start_ns: int,
        rate: float = 1.0,
        profiles: Mapping[Topic, QoSProfile] = MappingProxyType({}),
        clock_hz: float = CLOCK_HZ,
        max_gap_s: float = 0.0,
        warn: Callable[[str], object] = print,
        look: Callable[[], object] = lambda: None,
        **node_options: Any,
    ) -> None:
        super().__init__("bag_player", **node_options)
        self.time = PlayClock(rate)
        self.skipped: dict[Topic, str] = {}
        self.paused = False  # time follows soon
        self.changed = Event()
        self._ready: dict[str, bool] = {}
        self._warn, self._look = warn, look
        self._max_gap_s = max_gap_s
        self._tick_s, self._ticked_s = 1 / clock_hz, 0.0
        self._publishers_of: dict[Topic, Any] = {}
        self._clock_publisher = self.create_publisher(Clock, CLOCK, QoSProfile(depth=10))
        self._begin(start_ns)
        # Those with a profile first: of two topics of one name and different types the first alone can be published.
        for topic in sorted(topics, key=lambda topic: topic not in profiles):
            self._advertise(topic, profiles.get(topic) or offered_profile(topic))
        if self.skipped:
            reasons = "; ".join(f"{topic.name} ({topic.type}): {why}" for topic, why in self.skipped.items())
            warn(f"not played: {reasons}")
        self.create_service(SetBool, "~/pause", self._on_pause)

    @property
    def topics(self) -> list[Topic]:
        """The topics that are played."""
        return list(self._publishers_of)

    def play(self, source: Recording, span_ns: tuple[int, int], send: Callable[[Message], None]) -> None:
        """Play a span of a recording, after the latched messages before it. send: called for each message, in time."""
        start_ns, stop_ns = span_ns
        self._begin(start_ns)
        for message in source.messages([topic for topic in self.topics if is_latched(topic)], None, start_ns):
            self.publish(message)
        for message in source.messages(self.topics, start_ns, stop_ns):
            self._shorten_gap(message.time_ns)
            self._next_ns = message.time_ns
            self._obey()
            while (left_s := self.time.seconds_until(message.time_ns)) > 0:
                self._rest(left_s)
            send(message)

    def send(self, message: Message) -> None:
        """Publish its time, then the message."""
        self.tell_time(message.time_ns)
        self.publish(message)

    def publish(self, message: Message) -> None:
        """Publish the message alone."""
        self._publishers_of[message.topic].publish(message.data)

    def tell_time(self, time_ns: int) -> None:
        """Publish the time; of a late message the newest one that was told."""
        self.told_ns = max(self.told_ns, time_ns)
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(self.told_ns, 10**9)
        self._clock_publisher.publish(message)

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` holds; whether it did in time."""
        until_s = time.monotonic() + timeout_s
        while not condition():
            if (left_s := until_s - time.monotonic()) <= 0:
                return False
            self._rest(left_s)
        return True

    def wait_taken(self, topic: Topic, timeout_s: float) -> bool:
        """Whether all reliable subscribers of a topic acknowledge what was sent in time."""
        publisher = self._publishers_of[topic]
        return self.wait(lambda: bool(publisher.wait_for_all_acked(ACKNOWLEDGED)), timeout_s)

    def subscribers(self, topic: Topic) -> int:
        """The number of subscribers of a topic."""
        return int(self._publishers_of[topic].get_subscription_count())

    def listen(self, topics: Sequence[str]) -> None:
        """Subscribe to topics of std_msgs/Bool that tell when to begin."""
        for topic in topics:
            self._ready[topic] = False
            self.create_subscription(Bool, topic, partial(self._on_ready, topic), latched_profile())

    @property
    def ready(self) -> bool:
        """Whether all that was subscribed to by ``listen`` is true."""
        return all(self._ready.values())

    def wait_ready(self) -> None:
        """Wait until ``ready``. Raises RunError."""
        if not self.wait(lambda: self.ready, READY_TIMEOUT_S):
            late = ", ".join(self.resolve_topic_name(name) for name, ready in self._ready.items() if not ready)
            raise RunError(f"nothing was ready on {late} within {READY_TIMEOUT_S:g} s; is derain_node running?")

    def _begin(self, time_ns: int) -> None:
        """Set the recording's time, which may go back."""
        self.time.set(time_ns)
        self.told_ns = self._next_ns = time_ns
        self.tell_time(time_ns)

    def _shorten_gap(self, time_ns: int) -> None:
        """Shorten the gap before this time to the longest allowed; warn before a long one."""
        gap_s = (time_ns - self.time.now_ns()) / 1e9
        if 0 < self._max_gap_s < gap_s:
            self.time.set(time_ns - round(self._max_gap_s * 1e9))
            self._warn(f"a gap of {gap_s:.0f} s is shortened to {self._max_gap_s:g} s")
        elif gap_s > LONG_GAP_S:
            self._warn(f"nothing was recorded for {gap_s:.0f} s: waiting; --max-gap S skips such gaps")

    def _advertise(self, topic: Topic, profile: QoSProfile) -> None:
        kind = message_class(topic.type) if topic.encoding == "cdr" else None
        if kind is None:
            self.skipped[topic] = "its type is not installed here"
            return
        try:
            self._publishers_of[topic] = self.create_publisher(
                kind, topic.name, profile, qos_overriding_options=overridable()
            )
        except (InvalidTopicNameException, RuntimeError) as err:  # a name of ROS 1's, or of two types
            self.skipped[topic] = first_line(err)

    def _rest(self, at_most_s: float) -> None:
        """Let a moment pass; tell the time if that is due."""
        self.changed.wait(min(at_most_s, self._tick_s, LOOK_S))
        self.changed.clear()
        self._obey()
        now_s = time.monotonic()
        if now_s >= self._ticked_s + self._tick_s:
            self._ticked_s = now_s
            # The next message may be late: /clock must not run ahead of it.
            self.tell_time(min(self.time.now_ns(), self._next_ns))

    def _obey(self) -> None:
        self._look()
        if self.paused != self.time.paused:
            self.time.pause(self.paused)
            self.get_logger().info("paused" if self.paused else "resumed")

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.paused = request.data
        response.success = True
        return response

    def _on_ready(self, topic: str, message: Bool) -> None:
        self._ready[topic] = message.data
        self.changed.set()


@contextmanager
def spinning(*nodes: Node) -> Iterator[Callable[[], object]]:
    """Run the callbacks of nodes in a thread. Gives a function that raises what one of them has raised."""
    executor = SingleThreadedExecutor(context=nodes[0].context)
    for node in nodes:
        executor.add_node(node)
    stopping = Event()

    def spin() -> None:
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.1)

    try:
        with ThreadPoolExecutor(1) as threads:
            spun = threads.submit(spin)
            try:
                yield lambda: spun.done() and spun.result()
            finally:
                stopping.set()
        spun.result()
    finally:
        executor.shutdown()


def span(source: Recording, start_s: float, duration_s: float) -> tuple[int, int]:
    """First log time to play, and the one to stop before. Raises BagError if that is empty."""
    start_ns = source.start_ns + round(start_s * 1e9)
    stop_ns = min(source.end_ns, start_ns + round(duration_s * 1e9)) if duration_s else source.end_ns
    if start_ns >= stop_ns:
        length_s = (source.end_ns - source.start_ns) / 1e9
        raise BagError(f"{source.path} is {length_s:.3f} s long; there is nothing to play from {start_s:g} s on")
    return start_ns, stop_ns


def chosen_topics(source: Recording, only: Sequence[str], excluded: Collection[str]) -> list[Topic]:
    """The topics to play; the player publishes /clock itself. Raises BagError if one of ``only`` is missing."""
    if missing := set(only) - {topic.name for topic in source.topics}:
        raise BagError(f"{source.path} has no topic {', '.join(sorted(missing))}")
    left_out = {CLOCK, *excluded}
    return [topic for topic in source.topics if (not only or topic.name in only) and topic.name not in left_out]


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


def overridable() -> QoSOverridingOptions:
    """The standard ``qos_overrides`` parameters of a publisher, durability among them."""
    kinds = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
    return QoSOverridingOptions(kinds)
