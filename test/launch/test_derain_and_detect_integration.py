"""derain_and_detect.launch.py: how it chains the detector, here a stand-in for yolo_ros, and what it says without."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("needs_launch")

from launch import LaunchContext
from needs_launch import given, load
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import live

FILE = "derain_and_detect.launch.py"
launch_file = load(FILE)
# Parameters, topics and reliability of yolo_ros 4.6.1; a header instead of yolo_msgs/DetectionArray.
DETECTOR = f"""#!{sys.executable}
import os
import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

rclpy.init()
node = rclpy.create_node("yolo_node")
names = {{"image_reliability": 2, "model": "yolov8m.pt", "device": "cuda:0", "threshold": 0.5, "iou": 0.5}}
values = [node.declare_parameter(name, default).value for name, default in names.items()]
print("got", *values, os.environ["YOLO_AUTOINSTALL"], os.environ["PYTHONPATH"].split(os.pathsep)[0], flush=True)
publisher = node.create_publisher(Header, "detections", 10)
profile = QoSProfile(depth=1, reliability=values[0])
node.create_subscription(Image, "image_raw", lambda image: publisher.publish(image.header), profile)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    pass
"""


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs the stand-in; returns the folder that `uv sync` would make beside it."""
    prefix = tmp_path / "detector"
    marker = prefix / "share/ament_index/resource_index/packages/yolo_ros"
    executable = prefix / "lib/yolo_ros/yolo_node"
    packages = prefix / "share/yolo_ros/.venv/lib/python3.12/site-packages"
    for folder in (marker.parent, executable.parent, packages):
        folder.mkdir(parents=True)
    marker.touch()
    executable.write_text(DETECTOR)
    executable.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    return packages


def test_the_detector_gets_derained_frames(
    launch: Callable[..., Any], peer: Any, site_packages: Path, tmp_path: Path
) -> None:
    params = tmp_path / "detector.yaml"
    params.write_text("/**: {ros__parameters: {iou: 0.25, model: other.pt}}\n")
    arguments = ("image:=/camera/image_raw", "namespace:=front", "model:=1e5", "device:=cpu", "threshold:=1")
    launched = launch("backend:=fake", f"detector_params_file:={params}", *arguments, file=FILE)
    detections = peer.collect(Header, "/yolo/detections")
    live.wait_for(lambda: peer.node.count_subscribers("/front/derained/image"), "the detector's subscription")
    camera = peer.publisher(Image, "/camera/image_raw")

    def detected() -> bool:  # the two nodes may not have found each other yet
        camera.publish(live.image(np.zeros((48, 64, 3), np.uint8), 1234))
        time.sleep(0.1)
        return bool(detections)

    live.wait_for(detected, "a detection")
    assert (detections[0].stamp.sec, detections[0].frame_id) == (1, "camera_optical")
    assert f"got 1 1e5 cpu 1.0 0.25 false {site_packages}" in launched.log.read_text()


def test_without_yolo_ros_one_line_says_what_to_install(
    launch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    launched = launch("backend:=fake", file=FILE)
    assert launched.wait() == 1
    lines = [line for line in launched.log.read_text().splitlines() if "yolo_ros is not installed" in line]
    assert len(lines) == 1
    assert "https://github.com/mgonzs13/yolo_ros" in lines[0]
    assert "process started" not in launched.log.read_text()


def test_values_of_no_use_are_refused() -> None:
    values = partial(given, launch_file.launching.ARGUMENTS | launch_file.DETECTOR_ARGUMENTS)
    with pytest.raises(ValueError, match="threshold:=high must be a number"):
        launch_file.detector_parameters(values(threshold="high"))
    with pytest.raises(ValueError, match="detector_params_file:=missing is not a file"):
        launch_file.detector_parameters(values(detector_params_file="missing"))
    with pytest.raises(ValueError, match="must not be private"):
        launch_file.derained_topic(LaunchContext(), values(derained="~/clean"))
