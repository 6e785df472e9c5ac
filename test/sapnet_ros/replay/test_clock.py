"""The time of a recording while it is played, on a steady clock of the test's."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from sapnet_ros.replay.clock import PlayClock


class Steady:
    def __init__(self) -> None:
        self.ns = 5_000

    def __call__(self) -> int:
        return self.ns


def test_it_passes_at_its_rate() -> None:
    steady = Steady()
    clock = PlayClock(2.5, steady)
    clock.set(1_000_000)
    steady.ns += 400
    assert clock.now_ns() == 1_001_000
    assert clock.seconds_until(1_002_000) == pytest.approx(400e-9)
    assert clock.seconds_until(1_000_500) < 0


def test_it_stands_still_while_it_is_paused() -> None:
    steady = Steady()
    clock = PlayClock(1.0, steady)
    clock.set(100)
    clock.pause(True)
    steady.ns += 1000
    assert clock.now_ns() == 100
    assert clock.seconds_until(0) == math.inf
    clock.pause(False)
    steady.ns += 7
    assert clock.now_ns() == 107
