"""One camera's topics: where they are, what comes in, what goes out."""

from __future__ import annotations

import array
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float32, Header

from sapnet.messages import Decoded, encode_compressed, encode_image, output_encoding
from sapnet.streaks import streak_mask
from sapnet_ros.failopen import Outcome
from sapnet_ros.params import NodeParams
from sapnet_ros.qos import CameraSubscription, ReliabilityOverrides, frames_profile, overridable
from sapnet_ros.stats import CameraStats

REMEMBERED_INFOS = 16


class Topics:
    """Resolved topic names of one camera. One remap of ``image`` moves its compressed and camera_info siblings too."""

    def __init__(self, node: LifecycleNode, camera: str, transport: str) -> None:
        self._node = node
        self._prefix = f"{camera}/" if camera else ""
        image = self._resolve("image")
        self.image = f"{image}/compressed" if transport == "compressed" else image
        self.camera_info = self._sibling("camera_info", image)
        self.derained = self._resolve("derained/image")
        self.derained_compressed = f"{self.derained}/compressed"
        self.derained_camera_info = self._sibling("derained/camera_info", self.derained)
        self.streak_mask = self._resolve("streak_mask/image")
        self.frame_status = self._resolve("frame_status")
        self.rain_score = self._resolve("rain_score")

    def _resolve(self, name: str) -> str:
        return str(self._node.resolve_topic_name(self._prefix + name))

    def _sibling(self, name: str, image: str) -> str:
        """The camera_info beside an image topic, unless it has a remap of its own."""
        resolved = self._resolve(name)
        if resolved != self._node.resolve_topic_name(self._prefix + name, only_expand=True):
            return resolved
        return f"{image.rpartition('/')[0]}/camera_info"


class Camera:
    """Subscriptions and publishers of one camera. Publishers live while configured, subscriptions while active."""

    def __init__(self, node: LifecycleNode, name: str, params: NodeParams) -> None:
        self.name = name
        self.enabled = True
        self.stats = CameraStats()
        self.topics = Topics(node, name, params.image_transport)
        self._node = node
        self._infos: OrderedDict[tuple[int, int], CameraInfo] = OrderedDict()  # by stamp, oldest first
        self._infos_lock = Lock()
        self._subscriptions: list[CameraSubscription] = []
        self._image = self._publisher(Image, self.topics.derained)
        self._compressed = (
            self._publisher(CompressedImage, self.topics.derained_compressed) if params.publish_compressed else None
        )
        self._info = self._publisher(CameraInfo, self.topics.derained_camera_info)
        self._mask = self._publisher(Image, self.topics.streak_mask)
        self._status = self._publisher(DiagnosticArray, self.topics.frame_status)
        self._score = self._publisher(Float32, self.topics.rain_score)

    @property
    def label(self) -> str:
        """Name for people and diagnostics."""
        return self.name or "camera"

    @property
    def best_effort(self) -> bool:
        """Whether an input fell back to best effort."""
        return any(subscription.best_effort for subscription in self._subscriptions)

    def subscribe(
        self,
        params: NodeParams,
        on_image: Callable[[Any], None],
        on_info: Callable[[CameraInfo], None],
        overrides: ReliabilityOverrides,
    ) -> None:
        """Start receiving."""

        def keep_info(info: CameraInfo) -> None:
            stamp = info.header.stamp
            with self._infos_lock:
                self._infos[(stamp.sec, stamp.nanosec)] = info
                self._infos.move_to_end((stamp.sec, stamp.nanosec))
                while len(self._infos) > REMEMBERED_INFOS:
                    self._infos.popitem(last=False)
            on_info(info)

        message_type = CompressedImage if params.image_transport == "compressed" else Image
        inputs = (
            (message_type, self.topics.image, on_image, self.stats.count_lost),
            (CameraInfo, self.topics.camera_info, keep_info, lambda messages: None),
        )
        self._subscriptions = [
            CameraSubscription(self._node, kind, topic, callback, topic not in overrides, on_lost)
            for kind, topic, callback, on_lost in inputs
        ]

    def unsubscribe(self) -> None:
        """Stop receiving."""
        for subscription in self._subscriptions:
            subscription.destroy()
        self._subscriptions = []
        with self._infos_lock:
            self._infos.clear()

    def destroy(self) -> None:
        """Free the publishers."""
        for publisher in (self._image, self._compressed, self._info, self._mask, self._status, self._score):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)

    def publish(self, header: Header, outcome: Outcome, params: NodeParams, received_s: float) -> None:
        """Send what ``outcome`` holds, every message with the frame's own header; frame_status goes last."""
        assert outcome.decoded is not None
        bgr = outcome.decoded.bgr if outcome.derained is None else outcome.derained.image
        self._publish_image(header, bgr, outcome.decoded, params)
        self._publish_info(header)
        if self._mask.get_subscription_count():
            self._mask.publish(image_message(header, _mask(outcome, params), "mono8"))
        values = {"reason": outcome.reason, "latency_ms": f"{1e3 * (time.monotonic() - received_s):.3f}"}
        if outcome.derained is not None:
            score = outcome.derained.rain_score
            self._score.publish(Float32(data=score))
            values["rain_score"] = f"{score:.4f}"
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK if outcome.derained is not None else DiagnosticStatus.WARN,
            name=f"{self._node.get_name()}: {self.label}",
            message="derained" if outcome.derained is not None else "passed_through",
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        self._status.publish(DiagnosticArray(header=header, status=[status]))

    def _publisher(self, message_type: type, topic: str) -> LifecyclePublisher:
        return self._node.create_lifecycle_publisher(
            message_type, topic, frames_profile(), qos_overriding_options=overridable()
        )

    def _publish_image(self, header: Header, bgr: np.ndarray, decoded: Decoded, params: NodeParams) -> None:
        encoding = output_encoding(params.output_encoding, decoded.encoding)
        self._image.publish(image_message(header, bgr, encoding, decoded.alpha))
        if self._compressed is not None and self._compressed.get_subscription_count():
            packed = encode_compressed(bgr, quality=params.jpeg_quality)
            self._compressed.publish(CompressedImage(header=header, format=packed.format, data=as_array(packed.data)))

    def _publish_info(self, header: Header) -> None:
        """The camera_info of the frame's stamp, else the newest, under the frame's header."""
        with self._infos_lock:
            if not self._infos:
                return
            stamp = (header.stamp.sec, header.stamp.nanosec)
            info = self._infos.get(stamp) or next(reversed(self._infos.values()))
        info.header = header
        self._info.publish(info)


def image_message(header: Header, pixels: np.ndarray, encoding: str, alpha: np.ndarray | None = None) -> Image:
    """A sensor_msgs Image of BGR (H, W, 3) or gray (H, W) uint8 pixels in ``encoding``."""
    fields = encode_image(pixels, encoding, alpha)
    return Image(
        header=header,
        height=fields.height,
        width=fields.width,
        encoding=fields.encoding,
        is_bigendian=fields.is_bigendian,
        step=fields.step,
        data=as_array(fields.data),
    )


def as_array(data: Any) -> array.array[int]:
    """Bytes as the one type that rclpy takes without checking every element."""
    values = array.array("B")
    values.frombytes(memoryview(data).cast("B"))
    return values


def _mask(outcome: Outcome, params: NodeParams) -> np.ndarray:
    assert outcome.decoded is not None
    if outcome.derained is None:
        return np.zeros(outcome.decoded.bgr.shape[:2], np.uint8)
    if params.mask_mode == "soft":
        return outcome.derained.streaks
    return streak_mask(outcome.derained.streaks, params.mask_threshold)
