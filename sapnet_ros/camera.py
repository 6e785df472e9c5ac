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

from sapnet.images.messages import encode_compressed, encode_image, output_encoding, quoted
from sapnet.steadiness import Steadier
from sapnet.streaks import streak_mask
from sapnet_ros.declarations import ParameterError
from sapnet_ros.failopen import Outcome
from sapnet_ros.gate import RainGate
from sapnet_ros.params import NodeParams
from sapnet_ros.qos import CameraSubscription, ReliabilityOverrides, frames_profile, overridable
from sapnet_ros.stats import CameraStats, Parts

REMEMBERED_INFOS = 16


class Topics:
    """Topic names of one camera, as they are given to rcl, which applies the remap rules to each once.

    One remap of ``image`` moves its compressed and camera_info siblings too; those of ``derained/image`` likewise.
    Raises ParameterError where an output would be an input: the node would derain its own frames.
    """

    def __init__(self, node: LifecycleNode, camera: str, transport: str) -> None:
        self._node = node
        prefix = f"{camera}/" if camera else ""
        self.image = f"{prefix}image"
        self.derained = f"{prefix}derained/image"
        self.camera_info = self._sibling(f"{prefix}camera_info", self.image)
        self.derained_camera_info = self._sibling(f"{prefix}derained/camera_info", self.derained)
        self.derained_compressed = f"{self.final(self.derained)}/compressed"
        self.streak_mask = f"{prefix}streak_mask/image"
        self.frame_status = f"{prefix}frame_status"
        self.rain_score = f"{prefix}rain_score"
        if transport == "compressed":
            self.image = f"{self.final(self.image)}/compressed"
        for output in (self.derained, self.derained_compressed, self.streak_mask):
            if self.final(output) == self.final(self.image):
                raise ParameterError(f"output {output} and input {self.image} are both {self.final(output)}: remap one")

    def final(self, name: str) -> str:
        """Where a topic really is."""
        return str(self._node.resolve_topic_name(name))

    @property
    def shares_camera_info(self) -> bool:
        """Whether derained frames stand beside the camera_info that comes in, which then serves both."""
        return self.final(self.derained_camera_info) == self.final(self.camera_info)

    def _sibling(self, name: str, image: str) -> str:
        """The camera_info beside an image topic, unless it has a remap of its own."""
        if self.final(name) != self._node.resolve_topic_name(name, only_expand=True):
            return name
        return f"{self.final(image).rpartition('/')[0]}/camera_info"


class Camera:
    """Subscriptions and publishers of one camera. Publishers live while configured, subscriptions while active."""

    def __init__(self, node: LifecycleNode, name: str, params: NodeParams) -> None:
        self.name = name
        self.enabled = True
        self.size: tuple[int, int] | None = None  # height, width of the last frame
        self.info_mismatch = ""  # what is wrong with the camera_info of the last frame
        self.gate = RainGate()
        self.steadier = Steadier()
        self.stats = CameraStats()
        self.topics = Topics(node, name, params.image_transport)
        self._node = node
        self._infos: OrderedDict[tuple[int, int], CameraInfo] = OrderedDict()  # by stamp, oldest first
        self._infos_lock = Lock()
        self._subscriptions: list[CameraSubscription] = []
        self._publishers: dict[str, LifecyclePublisher] = {}

    @property
    def label(self) -> str:
        """Name for people and diagnostics."""
        return self.name or "camera"

    @property
    def best_effort(self) -> bool:
        """Whether an input fell back to best effort."""
        return any(subscription.best_effort for subscription in self._subscriptions)

    def advertise(self, params: NodeParams) -> None:
        """Make the publishers."""
        topics = self.topics
        outputs: dict[str, type] = {
            topics.derained: Image,
            topics.streak_mask: Image,
            topics.frame_status: DiagnosticArray,
            topics.rain_score: Float32,
        }
        if params.publish_compressed:
            outputs[topics.derained_compressed] = CompressedImage
        if not topics.shares_camera_info:
            outputs[topics.derained_camera_info] = CameraInfo
        for topic, message_type in outputs.items():
            self._publishers[topic] = self._node.create_lifecycle_publisher(
                message_type, topic, frames_profile(), qos_overriding_options=overridable()
            )

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
        # Callbacks are served in this order: a frame finds the camera_info that came with it.
        self._subscriptions.append(
            CameraSubscription(self._node, CameraInfo, self.topics.camera_info, keep_info, overrides)
        )
        self._subscriptions.append(
            CameraSubscription(self._node, message_type, self.topics.image, on_image, overrides, self.stats.count_lost)
        )

    def unsubscribe(self) -> None:
        """Stop receiving."""
        while self._subscriptions:
            self._subscriptions.pop().destroy()

    def destroy(self) -> None:
        """Free the publishers."""
        while self._publishers:
            self._node.destroy_lifecycle_publisher(self._publishers.popitem()[1])

    def publish(self, header: Header, outcome: Outcome, params: NodeParams, received_s: float, parts: Parts) -> None:
        """Send what ``outcome`` holds, every message with the frame's own header; frame_status goes last.

        All is made before anything is sent, so that a frame goes out whole or not at all. ``parts`` gets how long
        either took. Raises ImageFormatError for a frame that cannot be written as JPEG.
        """
        assert outcome.decoded is not None
        began_s = time.monotonic()
        topics, derained = self.topics, outcome.derained
        bgr = outcome.decoded.bgr if derained is None else derained.image
        encoding = output_encoding(params.output_encoding, outcome.decoded.encoding)
        messages: dict[str, Any] = {topics.derained: image_message(header, bgr, encoding, outcome.decoded.alpha)}
        if self._is_wanted(topics.derained_compressed):
            packed = encode_compressed(bgr, quality=params.jpeg_quality)
            messages[topics.derained_compressed] = CompressedImage(
                header=header, format=packed.format, data=as_array(packed.data)
            )
        info = self._info_for(header, bgr.shape[:2])
        if info is not None and topics.derained_camera_info in self._publishers:
            messages[topics.derained_camera_info] = info
        if self._is_wanted(topics.streak_mask):
            messages[topics.streak_mask] = image_message(header, _mask(outcome, params), "mono8")
        if derained is not None:
            messages[topics.rain_score] = Float32(data=derained.rain_score)
        made_s = time.monotonic()
        for topic, message in messages.items():
            self._publishers[topic].publish(message)
        values = {"reason": outcome.reason, "latency_ms": f"{1e3 * (time.monotonic() - received_s):.3f}"}
        if derained is not None:
            values["rain_score"] = f"{messages[topics.rain_score].data:.4f}"
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK if derained is not None else DiagnosticStatus.WARN,
            name=f"{self._node.get_name()}: {self.label}",
            message="derained" if derained is not None else "passed_through",
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        self._publishers[topics.frame_status].publish(DiagnosticArray(header=header, status=[status]))
        parts.postprocess_s, parts.publish_s = made_s - began_s, time.monotonic() - made_s

    def _is_wanted(self, topic: str) -> bool:
        return topic in self._publishers and self._publishers[topic].get_subscription_count() > 0

    def _info_for(self, header: Header, size: tuple[int, ...]) -> CameraInfo | None:
        """The camera_info of the frame's stamp, else the newest, under the frame's header; None if none ever came."""
        with self._infos_lock:
            if not self._infos:
                return None
            stamp = (header.stamp.sec, header.stamp.nanosec)
            info = self._infos.get(stamp) or next(reversed(self._infos.values()))
            self.info_mismatch = _mismatch(info, header, size)
            # Under a header of its own: the same info serves frames of other stamps, and its frame_id is compared.
            copy = CameraInfo(**{name: getattr(info, name) for name in CameraInfo.get_fields_and_field_types()})
        copy.header = header
        return copy


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


def _mismatch(info: CameraInfo, header: Header, size: tuple[int, ...]) -> str:
    """What a camera_info says otherwise than the frame it is for; 0x0 is that of a camera without calibration."""
    wrong = []
    if (info.height, info.width) not in ((0, 0), size):
        wrong.append(f"size {info.height}x{info.width}, the frame's is {size[0]}x{size[1]}")
    if info.header.frame_id != header.frame_id:
        wrong.append(f"frame_id {quoted(info.header.frame_id)}, the frame's is {quoted(header.frame_id)}")
    return f"camera_info has {' and '.join(wrong)}" if wrong else ""


def _mask(outcome: Outcome, params: NodeParams) -> np.ndarray:
    assert outcome.decoded is not None
    if outcome.derained is None:
        return np.zeros(outcome.decoded.bgr.shape[:2], np.uint8)
    if params.mask_mode == "soft":
        return outcome.derained.streaks
    return streak_mask(outcome.derained.streaks, params.mask_threshold)
