"""What derain_node publishes for each camera: one table for the node, its launch files, recordings and replays."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """One output. name: the topic, relative to the camera. type: of its messages. made_from: for people."""

    name: str
    type: str
    made_from: str


DERAINED = Output("derained/image", "sensor_msgs/msg/Image", "the derained frame, or the original")
DERAINED_COMPRESSED = Output("derained/image/compressed", "sensor_msgs/msg/CompressedImage", "derained/image, as JPEG")
DERAINED_INFO = Output("derained/camera_info", "sensor_msgs/msg/CameraInfo", "the frame's camera_info")
STREAK_MASK = Output("streak_mask/image", "sensor_msgs/msg/Image", "the streaks that were found")
COMPARISON = Output("comparison/image", "sensor_msgs/msg/Image", "original with the mask tinted in, and derained frame")
RAIN_SCORE = Output("rain_score", "std_msgs/msg/Float32", "the streaks that were found")
FRAME_STATUS = Output("frame_status", "diagnostic_msgs/msg/DiagnosticArray", "the frame's fate")

OUTPUTS = (DERAINED, DERAINED_COMPRESSED, DERAINED_INFO, STREAK_MASK, COMPARISON, RAIN_SCORE, FRAME_STATUS)
"""In the order in which they are published."""

RECORDED = (DERAINED, DERAINED_INFO, STREAK_MASK, RAIN_SCORE)
"""What a replay records."""
