"""What derain_node publishes for each camera: one table for the node, its launch files, recordings and replays."""

from __future__ import annotations

from typing import NamedTuple


class Output(NamedTuple):
    """One output. name: the topic, relative to the camera. type: of its messages."""

    name: str
    type: str


DERAINED = Output("derained/image", "sensor_msgs/msg/Image")
DERAINED_COMPRESSED = Output("derained/image/compressed", "sensor_msgs/msg/CompressedImage")
DERAINED_INFO = Output("derained/camera_info", "sensor_msgs/msg/CameraInfo")
STREAK_MASK = Output("streak_mask/image", "sensor_msgs/msg/Image")
COMPARISON = Output("comparison/image", "sensor_msgs/msg/Image")
RAIN_SCORE = Output("rain_score", "std_msgs/msg/Float32")
FRAME_STATUS = Output("frame_status", "diagnostic_msgs/msg/DiagnosticArray")

OUTPUTS = (DERAINED, DERAINED_COMPRESSED, DERAINED_INFO, STREAK_MASK, COMPARISON, RAIN_SCORE, FRAME_STATUS)
"""In the order in which they are published."""

RECORDED = (DERAINED, DERAINED_INFO, STREAK_MASK, RAIN_SCORE)
"""What a replay records."""
