"""What a camera says of its camera_info."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from sapnet_ros.camera import _mismatch


def test_what_is_wrong_with_a_camera_info_is_said_in_short() -> None:
    info = CameraInfo(header=Header(frame_id="front"), height=48, width=64)
    assert _mismatch(info, Header(frame_id="front"), (48, 64)) == ""
    said = _mismatch(info, Header(frame_id="rear"), (32, 64))
    assert said == "camera_info has size 48x64, the frame's is 32x64 and frame_id 'front', the frame's is 'rear'"
    info.header.frame_id = "front" * 1_000_000
    assert len(_mismatch(info, Header(frame_id="rear" * 1_000_000), (48, 64))) < 400
