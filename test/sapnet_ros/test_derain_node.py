"""The end of the process, which launch kills where it takes too long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from sapnet_ros import derain_node


class StubThread:
    """Ends after so many seconds of a test's own time."""

    def __init__(self, clock: list[float], ends_s: float) -> None:
        self.clock, self.ends_s = clock, ends_s

    def join(self, timeout: float) -> None:
        assert timeout >= 0
        self.clock[0] = min(self.clock[0] + timeout, max(self.clock[0], self.ends_s))

    def is_alive(self) -> bool:
        return self.clock[0] < self.ends_s


@pytest.mark.parametrize(
    ("ends_s", "all_end", "after_s"),
    [([], True, 0.0), ([0.2, 0.4, 0.1], True, 0.4), ([9.0] * 20, False, 1.0), ([0.5, 9.0, 0.7], False, 1.0)],
)
def test_threads_are_waited_for_together(
    monkeypatch: pytest.MonkeyPatch, ends_s: list[float], all_end: bool, after_s: float
) -> None:
    clock = [100.0]
    monkeypatch.setattr(derain_node, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    threads: list[Any] = [StubThread(clock, 100.0 + end_s) for end_s in ends_s]
    assert derain_node._all_end(threads, 101.0) == all_end
    assert clock[0] - 100.0 == pytest.approx(after_s)
