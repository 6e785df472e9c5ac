"""The time of a recording while it is played, on a steady clock of the test's."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from sapnet_ros.replay.player import PlayClock


def test_it_passes_at_its_rate_and_stands_still_while_it_is_paused() -> None:
    steady_ns = [5_000]
    clock = PlayClock(2.5, lambda: steady_ns[0])
    clock.set(1_000_000)
    steady_ns[0] += 400
    assert clock.now_ns() == 1_001_000
    assert clock.seconds_until(1_002_000) == pytest.approx(400e-9)
    assert clock.seconds_until(1_000_500) < 0
    clock.pause(True)
    steady_ns[0] += 1000
    assert clock.now_ns() == 1_001_000
    assert clock.seconds_until(0) == math.inf
    clock.pause(False)
    steady_ns[0] += 2
    assert clock.now_ns() == 1_001_005
