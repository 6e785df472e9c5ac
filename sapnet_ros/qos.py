"""Quality of service of the node's topics, and the fallback for best-effort cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

DEPTH = 5


def frames_profile() -> QoSProfile:
    """For images and camera_info, in and out. A new one each time: rclpy writes overrides into the profile it is given.

    Reliable also for what sensor data usually leaves to best effort: a frame larger than Fast DDS's default
    shared-memory segment travels in fragments, and best effort then loses nearly every frame.
    """
    return QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)


def latched_profile() -> QoSProfile:
    """For a state that late subscribers must receive too."""
    return QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def overridable() -> QoSOverridingOptions:
    """The standard ``qos_overrides`` parameters."""
    return QoSOverridingOptions.with_default_policies()


def reliability_chosen(node: Node, topic: str) -> bool:
    """Whether the user has set ``qos_overrides`` reliability for the subscription to a resolved topic.

    Once rclpy has declared that parameter, a user's choice cannot be told from the default: ask before the first
    subscription, and keep the answer.
    """
    name = f"qos_overrides.{topic}.subscription.reliability"
    value = node.declare_parameter(name, Parameter.Type.STRING).value
    node.undeclare_parameter(name)
    return value is not None


class Losses:
    """Counts messages that were published and never reached the subscription.

    The middleware reports some (``message_lost``); gaps in the publisher's sequence numbers reveal others, such as
    those overwritten in a full queue. Both may reveal the same message, in either order: the larger of the two sums
    counts, so that none counts twice. reported: how many the middleware has reported.
    """

    def __init__(self) -> None:
        self.reported = self._missing = self._before = 0
        self._last: int | None = None

    @property
    def total(self) -> int:
        """How many were lost, of all subscriptions."""
        return self._before + max(self.reported, self._missing)

    def begin(self) -> None:
        """Note that another subscription begins, whose first message reveals nothing."""
        self._before, self.reported, self._missing, self._last = self.total, 0, 0, None

    def note_number(self, number: int | None, one_publisher: Callable[[], bool]) -> None:
        """Note a message, whose gap to the one before may reveal lost messages.

        number: the publisher's sequence number; None if the middleware gives none. one_publisher: called at a gap, as
        the numbers of several publishers mix, and those of a restarted one start over.
        """
        last, self._last = self._last, number
        if number is not None and last is not None and number > last + 1 and one_publisher():
            self._missing += number - last - 1


@dataclass(eq=False)
class CameraSubscription:
    """A subscription that adapts to its publishers: reliable and volatile at first.

    It is replaced by a best-effort one when a publisher offers only that, and by a transient local one when all
    publishers are, so that a message published before the node started is received too.

    name: of the topic as given to rcl, which applies the remap rules; ``topic`` is the resolved name.
    may_fall_back: whether it may become best effort. losses: counts what it loses.
    """

    node: Node
    message_type: type
    name: str
    callback: Callable[[Any], None]
    may_fall_back: bool
    losses: Losses
    best_effort: bool = False
    latched: bool = False

    def __post_init__(self) -> None:
        self.topic = str(self.node.resolve_topic_name(self.name))
        self._create()

    def destroy(self) -> None:
        """Stop receiving."""
        self.node.destroy_subscription(self._subscription)

    def look_for_latched(self) -> None:
        """Become transient local if all publishers are."""
        publishers = self.node.get_publishers_info_by_topic(self.topic)
        durabilities = {publisher.qos_profile.durability for publisher in publishers}
        if not self.latched and durabilities == {DurabilityPolicy.TRANSIENT_LOCAL}:
            self.latched = True
            self._recreate()

    def _create(self) -> None:
        self.losses.begin()
        profile, overrides = frames_profile(), overridable()
        if self.best_effort:
            profile.reliability = ReliabilityPolicy.BEST_EFFORT
            # Without reliability: the one that is declared already would win over this profile.
            overrides = QoSOverridingOptions([QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH])
        if self.latched:
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self._subscription = self.node.create_subscription(
            self.message_type,
            self.name,
            self._receive,
            profile,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible,
                message_lost=self._on_message_lost,
                matched=lambda event: self.look_for_latched(),
            ),
            qos_overriding_options=overrides,
        )

    def _recreate(self) -> None:
        self.destroy()
        self._create()

    def _receive(self, message: Any, info: Mapping[str, Any]) -> None:
        number = info.get("publication_sequence_number")
        self.losses.note_number(number, lambda: self.node.count_publishers(self.topic) == 1)
        self.callback(message)

    def _on_message_lost(self, event: Any) -> None:
        self.losses.reported += event.total_count_change

    def _on_incompatible(self, event: Any) -> None:
        policy = QoSPolicyKind(event.last_policy_kind)
        if policy == QoSPolicyKind.DURABILITY and self.latched:
            self.latched = False
        elif policy == QoSPolicyKind.RELIABILITY and self.may_fall_back:
            self.may_fall_back = False
            self.best_effort = True
            self.node.get_logger().warning(
                f"A publisher of {self.topic} offers best effort only: subscribing as best effort. Large frames may be "
                "lost in transport; a reliable publisher, or a larger shared-memory segment on its side, avoids that."
            )
        else:
            self.node.get_logger().error(
                f"A publisher of {self.topic} offers an incompatible {policy.name.lower()}: nothing comes from it. "
                f"Set qos_overrides.{self.topic}.subscription.{policy.name.lower()} to what it offers."
            )
            return
        self._recreate()
