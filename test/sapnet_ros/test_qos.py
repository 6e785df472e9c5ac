"""Frames that never come are counted, by what the middleware reports and by gaps in the publisher's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from live import LocalNode, Peer, image, wait_for
from sapnet_ros.qos import Losses

CAME, OVERWRITTEN, REPORTED = "came", "overwritten in a queue", "lost and reported"


@given(st.lists(st.sampled_from([CAME, OVERWRITTEN, REPORTED])), st.integers(0, 1000), st.integers(0, 3))
def test_what_came_and_what_was_lost_is_what_was_sent(fates: list[str], first: int, delay: int) -> None:
    """However late the reports come."""
    fates = [CAME, *fates, CAME]
    losses, lost, reports = Losses(), 0, [0] * (len(fates) + delay)
    for number, fate in enumerate(fates):
        reports[number + delay] += fate is REPORTED
        losses.reported += reports[number]
        if fate is CAME:
            losses.note_number(first + number, lambda: True)
        lost += losses.take_new()
    for late in reports[len(fates) :]:
        losses.reported += late
        lost += losses.take_new()
    assert fates.count(CAME) + lost == len(fates)


def test_frames_overwritten_in_the_nodes_own_queue_are_counted(
    peer: Peer, start_node: Callable[..., LocalNode]
) -> None:
    start_node("-p", "qos_overrides./image.subscription.depth:=1", warmup_sizes="[48x64]")
    camera: Any = peer.node.create_publisher(Image, "/image", QoSProfile(depth=1000))
    wait_for(lambda: camera.get_subscription_count() == 1, "the node's subscription")
    message = image(np.zeros((48, 64, 3), np.uint8), 1)

    def counts() -> tuple[int, int]:
        values = peer.status()
        return int(values["received"]), int(values["lost_in_transport"])

    camera.publish(message)
    wait_for(lambda: counts() == (1, 0), "the first frame, from which on numbers tell")
    for _ in range(1000):  # faster than any node takes them
        camera.publish(message)
    wait_for(lambda: sum(counts()) == 1001, "every frame to be received or counted as lost")
    assert counts()[1] > 0
