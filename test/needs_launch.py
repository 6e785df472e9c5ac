"""Skips the module that imports it where launch, launch_ros or ROS 2 is missing, and says what to install."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

REASON = (
    "needs launch and launch_ros: source ROS 2, or put the sources of ros2/launch and ros2/launch_ros on PYTHONPATH"
)
pytest.importorskip("launch.actions", reason=REASON)
pytest.importorskip("launch_ros.actions", reason=REASON)
pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")


def load(name: str) -> ModuleType:
    """A launch file as a module, for its functions."""
    from launch.launch_description_sources.python_launch_file_utilities import load_python_launch_file_as_module

    return load_python_launch_file_as_module(str(Path(__file__).parents[1] / "launch" / name))


def given(arguments: Mapping[str, str], **values: str) -> Mapping[str, str]:
    """Values of all arguments of a launch file: empty but for those that are named."""
    return dict.fromkeys(arguments, "") | values
