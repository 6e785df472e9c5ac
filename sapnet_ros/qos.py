"""Quality of service of the node's topics, and the fallback for best-effort cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

DEPTH = 5


def frames_profile() -> QoSProfile:
    """For images and camera_info, in and out. A new one each time: rclpy writes overrides into the profile it is given.

    Reliable also for what sensor data usually leaves to best effort: a frame larger than Fast DDS's default
    shared-memory segment travels in fragments, and best effort then loses nearly every frame.
    """
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)


def latched_profile() -> QoSProfile:
    """For a state that late subscribers must receive too."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def overridable() -> QoSOverridingOptions:
    """The standard ``qos_overrides`` parameters."""
    return QoSOverridingOptions.with_default_policies()


class ReliabilityOverrides:
    """Knows for which subscriptions the user has set ``qos_overrides`` reliability.

    Once rclpy has declared that parameter, a user's choice cannot be told from the default, so each topic is asked
    about before its first subscription, and the answer kept.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._overridden: dict[str, bool] = {}

    def chosen_by_user(self, topic: str) -> bool:
        """For a fully resolved topic, before or after its first subscription."""
        if topic not in self._overridden:
            name = f"qos_overrides.{topic}.subscription.reliability"
            value = self._node.declare_parameter(name, Parameter.Type.STRING).value
            self._node.undeclare_parameter(name)
            self._overridden[topic] = value is not None
        return self._overridden[topic]


class Losses:
    """Counts messages that were published and never reached the subscription.

    The middleware reports some (``message_lost``); gaps in the publisher's sequence numbers reveal others, such as
    those overwritten in a full queue. Both may reveal the same message, in either order: the larger of the two sums
    counts, so that none counts twice.
    """

    def __init__(self) -> None:
        self._reported = self._missing = 0
        self._last: int | None = None

    def note_reported(self, messages: int) -> int:
        """Note a report of lost messages; returns how many were not counted before."""
        before = self._total
        self._reported += messages
        return self._total - before

    def note_number(self, number: int | None, one_publisher: Callable[[], bool]) -> int:
        """Note a message; returns how many lost messages it newly reveals.

        number: the publisher's sequence number; None if the middleware gives none. one_publisher: called at a gap, as
        the numbers of several publishers mix, and those of a restarted one start over.
        """
        before, last, self._last = self._total, self._last, number
        if number is not None and last is not None and number > last + 1 and one_publisher():
            self._missing += number - last - 1
        return self._total - before

    @property
    def _total(self) -> int:
        return max(self._reported, self._missing)


class CameraSubscription:
    """A subscription that adapts to its publishers: reliable and volatile at first.

    It is replaced by a best-effort one when a publisher offers only that, and by a transient local one when all
    publishers are, so that a message published before the node started is received too.

    topic: as given to rcl, which applies the remap rules; the attribute is the resolved name.
    on_lost: called with the number of newly lost messages.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        overrides: ReliabilityOverrides,
        on_lost: Callable[[int], None] = lambda messages: None,
    ) -> None:
        self._node = node
        self.type_name = f"sensor_msgs/msg/{message_type.__name__}"
        self._type = message_type
        self._name = topic
        self.topic = str(node.resolve_topic_name(topic))
        self._callback = callback
        self._may_fall_back = not overrides.chosen_by_user(self.topic)
        self._on_lost = on_lost
        self.best_effort = False
        self._latched = False
        self._create()

    def destroy(self) -> None:
        """Stop receiving."""
        self._node.destroy_subscription(self._subscription)

    def look_for_latched(self) -> None:
        """Become transient local if all publishers are."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        durabilities = {publisher.qos_profile.durability for publisher in publishers}
        if not self._latched and durabilities == {DurabilityPolicy.TRANSIENT_LOCAL}:
            self._latched = True
            self._recreate()

    def _create(self) -> None:
        self._losses = Losses()
        profile, overrides = frames_profile(), overridable()
        if self.best_effort:
            prefix = f"qos_overrides.{self.topic}.subscription"
            profile.history = HistoryPolicy.get_from_short_key(self._node.get_parameter(f"{prefix}.history").value)
            profile.depth = self._node.get_parameter(f"{prefix}.depth").value
            profile.reliability = ReliabilityPolicy.BEST_EFFORT
            overrides = None  # the declared reliability would win over this profile
        if self._latched:
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self._subscription = self._node.create_subscription(
            self._type,
            self._name,
            self._receive,
            profile,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible,
                message_lost=lambda event: self._tell(self._losses.note_reported(event.total_count_change)),
                matched=lambda event: self.look_for_latched(),
            ),
            qos_overriding_options=overrides,
        )

    def _recreate(self) -> None:
        self.destroy()
        self._create()

    def _receive(self, message: Any, info: Mapping[str, Any]) -> None:
        number = info.get("publication_sequence_number")
        self._tell(self._losses.note_number(number, lambda: self._node.count_publishers(self.topic) == 1))
        self._callback(message)

    def _tell(self, lost: int) -> None:
        if lost:
            self._on_lost(lost)

    def _on_incompatible(self, event: Any) -> None:
        policy = QoSPolicyKind(event.last_policy_kind)
        if policy == QoSPolicyKind.DURABILITY and self._latched:
            self._latched = False
        elif policy == QoSPolicyKind.RELIABILITY and self._may_fall_back:
            self._may_fall_back = False
            self.best_effort = True
            self._node.get_logger().warning(
                f"A publisher of {self.topic} offers best effort only: subscribing as best effort. Large frames may be "
                "lost in transport; a reliable publisher, or a larger shared-memory segment on its side, avoids that."
            )
        else:
            self._node.get_logger().error(
                f"A publisher of {self.topic} offers an incompatible {policy.name.lower()}: nothing comes from it. "
                f"Set qos_overrides.{self.topic}.subscription.{policy.name.lower()} to what it offers."
            )
            return
        self._recreate()
