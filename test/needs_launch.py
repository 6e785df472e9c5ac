"""Skips the module that imports it where launch, launch_ros or ROS 2 is missing, and says what to install."""

from __future__ import annotations

import pytest

REASON = (
    "needs launch and launch_ros: source ROS 2, or put the sources of ros2/launch and ros2/launch_ros on PYTHONPATH"
)
pytest.importorskip("launch.actions", reason=REASON)
pytest.importorskip("launch_ros.actions", reason=REASON)
pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
