"""A recording to topics: its messages as they were recorded, with /clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool

from sapnet.bags import Message, Topic
from sapnet.errors import SapnetError, first_line
from sapnet_ros.replay.clock import PlayClock
from sapnet_ros.replay.recorded_topics import is_latched, message_class, offered_profile, overridable
from sapnet_ros.replay.waiting import WaitingNode

CLOCK = "/clock"
CLOCK_HZ = 40.0
PAUSE = "pause"
# Callbacks are served at least so often while messages are late.
SERVE_NS = 10_000_000
# To wait for acknowledgements at a time.
ACKNOWLEDGED = Duration(seconds=0.1)


class PlayerStopped(SapnetError):
    """A signal asked the player to end."""


class BagPlayer(WaitingNode):
    """Publishes messages of ``topics`` at their log times, with their recorded QoS; ``qos_overrides`` win.

    profiles: what to offer instead of what was recorded. clock_depth: of the queue of /clock. skipped: topics that
    cannot be published here, and why.
    /clock has the recording's time: with each message, and ``clock_hz`` times in each second of steady time.
    ``~/pause`` stops time and goes on. Not thread-safe.
    """

    def __init__(
        self,
        topics: Iterable[Topic],
        rate: float,
        profiles: Mapping[Topic, QoSProfile] = MappingProxyType({}),
        clock_hz: float = CLOCK_HZ,
        clock_depth: int = 10,
        **node_options: Any,
    ) -> None:
        super().__init__("bag_player", **node_options)
        self.time = PlayClock(rate)
        self.skipped: dict[Topic, str] = {}
        self.stop_asked = False
        self._toggles = 0  # of the pause, that signals have asked for
        self._told_ns = self._next_ns = 0
        self._served_ns = 0
        self._publishers_of: dict[Topic, Any] = {}
        self._clock_publisher = self.create_publisher(Clock, CLOCK, QoSProfile(depth=clock_depth))
        for topic in topics:
            self._advertise(topic, profiles.get(topic) or offered_profile(topic))
        self.create_timer(1 / clock_hz, self._tick, clock=RosClock(clock_type=ClockType.STEADY_TIME))
        self.create_service(SetBool, "~/pause", self._on_pause)

    @property
    def topics(self) -> list[Topic]:
        """What is played."""
        return list(self._publishers_of)

    def begin(self, time_ns: int) -> None:
        """Set the recording's time, which may be back from where it was."""
        self.time.set(time_ns)
        self._told_ns, self._next_ns = 0, time_ns
        self._tell_time(time_ns)

    def wait_until(self, time_ns: int) -> None:
        """Until the recording's time has come, and it is not paused. Raises PlayerStopped."""
        self._next_ns = time_ns
        while (left_s := self.time.seconds_until(time_ns)) > 0 or self._is_due():
            self.serve(max(0.0, left_s))
            self._obey()

    def send(self, message: Message) -> None:
        """Publish a message as it was recorded, after its time."""
        self._tell_time(message.time_ns)
        self.publish(message)

    def publish(self, message: Message) -> None:
        """Publish a message as it was recorded, whatever the time."""
        self._publishers_of[message.topic].publish(message.data)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Serve callbacks until ``condition`` holds; whether it did in time. Raises PlayerStopped."""

        def holds() -> bool:
            self._obey()
            return condition()

        return super().spin_until(holds, timeout_s)

    def subscribers(self, topic: Topic) -> int:
        """How many listen to a topic."""
        return int(self._publishers_of[topic].get_subscription_count())

    def tell_time(self, time_ns: int, timeout_s: float) -> bool:
        """Have it be this time for all reliable subscribers of /clock; whether they took it. Raises PlayerStopped."""
        self._tell_time(time_ns)
        return self._wait_acknowledged(self._clock_publisher, timeout_s)

    def wait_taken(self, topic: Topic, timeout_s: float) -> bool:
        """Whether all reliable subscribers have what was sent of a topic within the time. Raises PlayerStopped."""
        return self._wait_acknowledged(self._publishers_of[topic], timeout_s)

    def _wait_acknowledged(self, publisher: Any, timeout_s: float) -> bool:
        return self.spin_until(lambda: bool(publisher.wait_for_all_acked(ACKNOWLEDGED)), timeout_s)

    def toggle_pause(self) -> None:
        """Pause, or go on: soon. May be called from a signal handler."""
        self._toggles += 1

    def pause(self, paused: bool) -> None:
        """Stop time, or let it go on."""
        if paused != self.time.is_stopped(PAUSE):
            (self.time.stop if paused else self.time.go_on)(PAUSE)
            self.get_logger().info("paused" if paused else "playing on")

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

    def _is_due(self) -> bool:
        """Whether callbacks have waited for long."""
        return time.monotonic_ns() - self._served_ns > SERVE_NS

    def serve(self, at_most_s: float) -> None:
        """Wait a moment for a callback, and serve it."""
        super().serve(at_most_s)
        self._served_ns = time.monotonic_ns()

    def _obey(self) -> None:
        """What signals asked for."""
        if self.stop_asked:
            raise PlayerStopped("stopped by a signal")
        while self._toggles:
            self._toggles -= 1
            self.pause(not self.time.is_stopped(PAUSE))

    def _tick(self) -> None:
        if self._told_ns:
            # What comes next may be late, and is not to come after its time.
            self._tell_time(min(self.time.now_ns(), self._next_ns))

    def _tell_time(self, time_ns: int) -> None:
        # Of a message that is late: time never goes back but for a new beginning.
        self._told_ns = max(self._told_ns, time_ns)
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(self._told_ns, 10**9)
        self._clock_publisher.publish(message)

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.pause(request.data)
        response.success = True
        return response


def play_once(
    player: BagPlayer,
    messages: Callable[[Collection[Topic], int | None, int | None], Iterable[Message]],
    span_ns: tuple[int, int],
    send: Callable[[Message], None],
) -> None:
    """Play a span of a recording; what was latched before it comes first. Raises PlayerStopped, and what ``send`` does.

    messages: as Recording.messages. send: called for each message when its time has come.
    """
    start_ns, stop_ns = span_ns
    player.begin(start_ns)
    for message in messages([topic for topic in player.topics if is_latched(topic)], None, start_ns):
        player.publish(message)
    for message in messages(player.topics, start_ns, stop_ns):
        player.wait_until(message.time_ns)
        send(message)
