"""Topics of a recording as live ones: their message types and their quality of service."""

from __future__ import annotations

import re
from importlib import import_module

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosbags.interfaces import QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from sapnet.bags import Topic

DEPTH = 10
# Names come from the recording, and are imported.
_TYPE = re.compile(r"([a-z][a-z0-9_]*)/(msg|srv|action)/([A-Z][A-Za-z0-9_]*)")
_FOREVER = QosTime(9223372036, 854775807)
_NEVER_SET = QosTime(0, 0)


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
    """Whether late subscribers get what was published before."""
    return any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in topic.qos)


def offered_profile(topic: Topic, reliable: bool = False) -> QoSProfile:
    """What to offer so that every subscriber of the recorded publishers is served: where they differ, the most of it.

    What was not recorded is reliable, volatile and keeps the last 10. reliable: whatever was recorded.
    """
    best_effort = bool(topic.qos) and all(qos.reliability == QosReliability.BEST_EFFORT for qos in topic.qos)
    keeps_all = any(qos.history == QosHistory.KEEP_ALL for qos in topic.qos)
    by_topic = any(qos.liveliness == QosLiveliness.MANUAL_BY_TOPIC for qos in topic.qos)
    profile = QoSProfile(
        history=HistoryPolicy.KEEP_ALL if keeps_all else HistoryPolicy.KEEP_LAST,
        depth=max((qos.depth for qos in topic.qos), default=0) or DEPTH,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort and not reliable else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_latched(topic) else DurabilityPolicy.VOLATILE,
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC if by_topic else LivelinessPolicy.AUTOMATIC,
    )
    deadlines = [qos.deadline for qos in topic.qos if qos.deadline not in (_FOREVER, _NEVER_SET)]
    if deadlines:
        profile.deadline = _duration(min(deadlines))
    leases = [q.liveliness_lease_duration for q in topic.qos]
    leases = [lease for lease in leases if lease not in (_FOREVER, _NEVER_SET)]
    if leases:
        profile.liveliness_lease_duration = _duration(min(leases))
    return profile


def overridable() -> QoSOverridingOptions:
    """The standard ``qos_overrides`` parameters of a publisher, durability among them."""
    kinds = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
    return QoSOverridingOptions(kinds)


def _duration(time: QosTime) -> Duration:
    return Duration(seconds=time.sec, nanoseconds=time.nsec)
