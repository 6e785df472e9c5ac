"""The executable on a ROS 2 that it cannot run on."""

from __future__ import annotations

import pytest

from sapnet_ros import derain_node


def test_a_ros_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(derain_node, "find_spec", lambda name: None if name == "rclpy.event_handler" else object())
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert derain_node.main([]) == 1
    assert "the rclpy of humble is too old: ROS 2 Jazzy or later is needed" in capsys.readouterr().err
