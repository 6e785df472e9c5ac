"""A camera's topics: names, subscriptions, publishers and the messages made for them."""

from __future__ import annotations

import array
import copy
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from threading import Lock
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float32, Header

from sapnet.derainer import Derained
from sapnet.images.messages import (
    Decoded,
    encode_compressed,
    encode_image,
    output_encoding,
    quoted,
)
from sapnet.images.pixel_formats import white
from sapnet.images.topics import (
    COMPARISON,
    DERAINED,
    DERAINED_COMPRESSED,
    DERAINED_INFO,
    FRAME_STATUS,
    OUTPUTS,
    RAIN_SCORE,
    STREAK_MASK,
    Output,
)
from sapnet.steadiness import Steadier
from sapnet.streaks import streak_mask
from sapnet_ros.fate import RainGate, Received
from sapnet_ros.params import NodeParams, ParameterError
from sapnet_ros.qos import CameraSubscription, Losses, frames_profile, overridable
from sapnet_ros.stats import CameraStats

REMEMBERED_INFOS = 32
PAIRS = 8  # recent frames that show whether the camera sends a camera_info with each
# Transports of image_transport; a topic that ends with one is not a raw image.
TRANSPORTS = ("compressed", "compressedDepth", "theora", "zstd", "ffmpeg")
TINT = (0, 0, 255)  # of streaks in the comparison, BGR
TYPES = {
    f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}": kind
    for kind in (CameraInfo, CompressedImage, DiagnosticArray, Float32, Image)
}


class Topics:
    """Topic names of one camera, as they are given to rcl, which applies the remap rules to each once.

    One remap of ``image`` moves its compressed and camera_info siblings too; those of ``derained/image`` likewise.
    """

    def __init__(self, node: Node, camera: str, transport: str) -> None:
        self._node = node
        self._prefix = f"{camera}/" if camera else ""
        self.image = f"{self._prefix}image"
        self.camera_info = self._sibling(f"{self._prefix}camera_info", self.image)
        if transport == "compressed":
            self.image = f"{self.final(self.image)}/compressed"
        self.outputs = {output: f"{self._prefix}{output.name}" for output in OUTPUTS}
        derained = self.outputs[DERAINED]
        self.outputs[DERAINED_COMPRESSED] = f"{self.final(derained)}/compressed"
        self.outputs[DERAINED_INFO] = self._sibling(self.outputs[DERAINED_INFO], derained)

    def final(self, name: str) -> str:
        """The resolved name of a topic."""
        return str(self._node.resolve_topic_name(name))

    def inputs(self) -> dict[str, str]:
        """Resolved names of the inputs, and their names for display."""
        return {
            self.final(self.image): f"{self._prefix}image",
            self.final(self.camera_info): f"{self._prefix}camera_info",
        }

    def advice(self) -> Iterator[str]:
        """What to remap instead, for each name of an image that ends with a transport."""
        image = f"{self._prefix}image"
        for name in (image, self.outputs[DERAINED]):
            base, _, transport = self.final(name).rpartition("/")
            if transport not in TRANSPORTS:
                continue
            instead = f"remap {name} to {base}"
            if name == image and transport == "compressed":
                instead += " and set image_transport to compressed"
            elif name == image:
                instead += f", made by `ros2 run image_transport republish {transport} raw`"
            yield f"{name} is {base}/{transport}, which names a transport: {instead}"

    def published(self, params: NodeParams) -> dict[Output, str]:
        """The ``outputs`` that are published with these parameters."""
        left_out = set() if params.publish_compressed else {DERAINED_COMPRESSED}
        # Derained frames beside the input camera_info share it.
        if self.final(self.outputs[DERAINED_INFO]) == self.final(self.camera_info):
            left_out.add(DERAINED_INFO)
        return {output: name for output, name in self.outputs.items() if output not in left_out}

    def _sibling(self, name: str, image: str) -> str:
        """The camera_info beside an image topic, unless it has a remap of its own."""
        if self.final(name) != self._node.resolve_topic_name(name, only_expand=True):
            return name
        return f"{self.final(image).rpartition('/')[0]}/camera_info"


def require_no_collisions(cameras: Collection[Camera], own: Iterable[str], params: NodeParams) -> None:
    """Raises ParameterError if an output has the topic of another output or of an input.

    own: resolved names of the node's other outputs.
    """
    taken = {name: f"input {what}" for camera in cameras for name, what in camera.topics.inputs().items()}
    taken |= {name: f"output {name}" for name in own}
    for camera in cameras:
        for output, name in camera.topics.published(params).items():
            final = camera.topics.final(name)
            what = f"output {camera.name}/{output.name}" if camera.name else f"output {output.name}"
            if final in taken:
                raise ParameterError(f"{what} and {taken[final]} are both {final}: remap one")
            taken[final] = what


class Camera:
    """Subscriptions and publishers of a camera. Publishers exist while configured, subscriptions while active."""

    def __init__(self, node: LifecycleNode, name: str, params: NodeParams) -> None:
        self.name = name
        self.enabled = True
        self.size: tuple[int, int] | None = None  # height, width of the last frame
        self.frame_id = ""  # of the last frame
        self.info_mismatch = ""  # what is wrong with the camera_info of the last frame
        self.late_infos = 0  # frames that were published with an older camera_info because theirs did not come in time
        self.wrong_types = ""  # topics on which somebody uses another type
        self.gate = RainGate()
        self.steadier = Steadier()
        self.stats = CameraStats()
        self.losses = Losses()  # of frames, in transport
        self.topics = Topics(node, name, params.image_transport)
        self._node = node
        self._infos: OrderedDict[tuple[int, int], CameraInfo] = OrderedDict()  # by stamp, oldest first
        self._stamps: deque[tuple[int, int]] = deque(maxlen=PAIRS)  # of the last frames received
        self._infos_lock = Lock()
        self._subscriptions: list[CameraSubscription] = []
        self._publishers: dict[Output, LifecyclePublisher] = {}

    @property
    def label(self) -> str:
        """Name for logs and diagnostics."""
        return self.name or "camera"

    @property
    def best_effort(self) -> bool:
        """Whether a subscription fell back to best effort."""
        return any(subscription.best_effort for subscription in self._subscriptions)

    @property
    def watched(self) -> bool:
        """Whether an output has a subscriber."""
        return any(map(self.is_wanted, self._publishers))

    def advertise(self, params: NodeParams) -> None:
        """Make the publishers."""
        for advice in self.topics.advice():
            self._node.get_logger().warning(advice)
        for output, topic in self.topics.published(params).items():
            self._publishers[output] = self._node.create_lifecycle_publisher(
                TYPES[output.type], topic, frames_profile(), qos_overriding_options=overridable()
            )

    def subscribe(self, params: NodeParams, dispatch: Any, reliability_chosen: Callable[[str], bool]) -> None:
        """Have a Dispatch receive messages.

        reliability_chosen: whether the user has chosen that of the subscription to a topic.
        """

        def keep_info(info: CameraInfo) -> None:
            with self._infos_lock:
                self._infos[_stamp(info.header)] = info
                self._infos.move_to_end(_stamp(info.header))
                while len(self._infos) > REMEMBERED_INFOS:
                    self._infos.popitem(last=False)
            dispatch.receive_info(self.name, info)

        def keep_stamp(message: Any) -> None:
            with self._infos_lock:
                self._stamps.append(_stamp(message.header))
            dispatch.receive(self.name, message)

        image_type = CompressedImage if params.image_transport == "compressed" else Image
        # Callbacks run in this order, so that a frame finds the camera_info that came with it.
        for kind, topic, callback, losses in (
            (CameraInfo, self.topics.camera_info, keep_info, Losses()),
            (image_type, self.topics.image, keep_stamp, self.losses),
        ):
            adaptive = not reliability_chosen(self.topics.final(topic))
            self._subscriptions.append(CameraSubscription(self._node, kind, topic, callback, adaptive, losses))

    def look_around(self) -> None:
        """Check durability and types of the other endpoints on the topics: call it periodically while subscribed."""
        for subscription in self._subscriptions:
            subscription.look_for_latched()
        expected = {one.topic: f"sensor_msgs/msg/{one.message_type.__name__}" for one in self._subscriptions}
        expected |= {publisher.topic_name: output.type for output, publisher in self._publishers.items()}
        in_use = dict(self._node.get_topic_names_and_types())
        wrong_types = "; ".join(
            f"{topic} is used with type {', '.join(others)} elsewhere, expected {ours}"
            for topic, ours in expected.items()
            if (others := sorted({*in_use.get(topic, ())} - {ours}))
        )
        if wrong_types and wrong_types != self.wrong_types:
            self._node.get_logger().error(wrong_types)
        self.wrong_types = wrong_types

    def unsubscribe(self) -> None:
        """Stop receiving."""
        while self._subscriptions:
            self._subscriptions.pop().destroy()

    def destroy(self) -> None:
        """Free the publishers."""
        while self._publishers:
            self._node.destroy_lifecycle_publisher(self._publishers.popitem()[1])

    def is_wanted(self, output: Output) -> bool:
        """Whether an output is published and has a subscriber."""
        return output in self._publishers and self._publishers[output].get_subscription_count() > 0

    def awaits_info(self, header: Header) -> bool:
        """Whether a frame's camera_info is still expected: it has not come, and most earlier frames had theirs."""
        if not self.is_wanted(DERAINED_INFO):
            return False
        stamp = _stamp(header)
        with self._infos_lock:
            if stamp in self._infos or stamp not in self._stamps:
                return False
            before = list(self._stamps)[: self._stamps.index(stamp)]
            return 2 * sum(earlier in self._infos for earlier in before) > len(before)

    def publish(self, frame: Received, params: NodeParams) -> None:
        """Publish a settled frame, derained or else the original, with all other outputs.

        Every message has the frame's header, and is made only if it has a subscriber. All are made before the first is
        published, so that a frame is published whole or not at all; frame_status comes last. The frame's ``parts``
        receive both durations. Raises ImageFormatError for a frame that cannot be encoded as JPEG.
        """
        began_s = time.monotonic()
        header, decoded, derained = frame.message.header, frame.decoded, frame.derained
        self.frame_id = header.frame_id
        bgr = decoded.bgr if derained is None else derained.image
        info = self._info_for(header, bgr.shape[:2])
        makers: Mapping[Output, Callable[[], Any]] = {
            DERAINED: lambda: _derained_message(header, decoded, derained, params),
            DERAINED_COMPRESSED: lambda: _compressed_message(header, bgr, params.jpeg_quality),
            DERAINED_INFO: lambda: None if info is None else _info_message(header, info),
            STREAK_MASK: lambda: image_message(header, _mask(bgr.shape, derained, params), "mono8"),
            COMPARISON: lambda: image_message(header, comparison(decoded.bgr, derained, params.mask_threshold), "bgr8"),
            RAIN_SCORE: lambda: None if derained is None else Float32(data=derained.rain_score),
        }
        messages = {output: make() for output, make in makers.items() if self.is_wanted(output)}
        made_s = time.monotonic()
        for output, message in messages.items():
            if message is not None:
                self._publishers[output].publish(message)
        if self.is_wanted(FRAME_STATUS):
            status = self._frame_status(frame)
            self._publishers[FRAME_STATUS].publish(DiagnosticArray(header=header, status=[status]))
        frame.parts.postprocess_s, frame.parts.publish_s = made_s - began_s, time.monotonic() - made_s

    def _frame_status(self, frame: Received) -> DiagnosticStatus:
        derained, latency_ms = frame.derained, 1e3 * (time.monotonic() - frame.received_s)
        values = {"reason": frame.fate.reason, "latency_ms": f"{latency_ms:.3f}"}
        if derained is not None:
            values["rain_score"] = f"{derained.rain_score:.4f}"
        return DiagnosticStatus(
            level=DiagnosticStatus.OK if derained is not None else DiagnosticStatus.WARN,
            name=f"{self._node.get_fully_qualified_name()}: {self.label}",
            message="derained" if derained is not None else "passed_through",
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )

    def _info_for(self, header: Header, size: tuple[int, ...]) -> CameraInfo | None:
        """The camera_info of the frame's stamp, else the newest; None before the first one."""
        self.late_infos += self.awaits_info(header)
        with self._infos_lock:
            if not self._infos:
                return None
            info = self._infos.get(_stamp(header)) or next(reversed(self._infos.values()))
        self.info_mismatch = _mismatch(info, header, size)
        return info


def _stamp(header: Header) -> tuple[int, int]:
    return header.stamp.sec, header.stamp.nanosec


def image_message(header: Header, pixels: np.ndarray, encoding: str, alpha: np.ndarray | None = None) -> Image:
    """A sensor_msgs Image of BGR (H, W, 3) or gray (H, W) pixels in ``encoding``, as ``encode_image`` takes them."""
    fields = encode_image(pixels, encoding, alpha)
    return Image(header=header, **(vars(fields) | {"data": as_array(fields.data)}))


def _derained_message(header: Header, decoded: Decoded, derained: Derained | None, params: NodeParams) -> Image:
    bgr = decoded.bgr if derained is None else derained.image
    if params.output_encoding == "same" and decoded.deep is not None:
        return image_message(header, _deepened(decoded, derained, params.input_bits), "mono16")
    encoding = output_encoding(params.output_encoding, decoded.encoding)
    return image_message(header, bgr, encoding, decoded.alpha)


def _deepened(decoded: Decoded, derained: Derained | None, input_bits: int) -> np.ndarray:
    """The derained frame in the depth of the original, uint16 (H, W): the original minus the 8-bit difference."""
    if derained is None:
        return decoded.deep
    taken_out = cv2.cvtColor(decoded.bgr, cv2.COLOR_BGR2GRAY).astype(np.float32)
    taken_out -= cv2.cvtColor(derained.image, cv2.COLOR_BGR2GRAY)
    deep = np.rint(decoded.deep - taken_out * (white(input_bits) / 255))
    return deep.clip(0, max(white(input_bits), int(decoded.deep.max()))).astype(np.uint16)


def as_array(data: Any) -> array.array[int]:
    """Bytes as array.array, the only type that rclpy does not check element by element."""
    values = array.array("B")
    values.frombytes(memoryview(data).cast("B"))
    return values


def comparison(rainy: np.ndarray, derained: Derained | None, mask_threshold: int) -> np.ndarray:
    """The original with its streaks tinted, and the derained frame to the right of it: uint8 (H, 2 W, 3) BGR."""
    if derained is None:
        return np.hstack([rainy, rainy])
    mask = streak_mask(derained.streaks, mask_threshold) > 0
    tinted = rainy.copy()
    tinted[mask] = (rainy[mask] // 2) + np.array(TINT, np.uint8) // 2
    return np.hstack([tinted, derained.image])


def _info_message(header: Header, info: CameraInfo) -> CameraInfo:
    """A copy under the frame's header: the same info serves frames of other stamps, and its frame_id is compared."""
    message = copy.copy(info)
    message.header = header
    return message


def _compressed_message(header: Header, bgr: np.ndarray, quality: int) -> CompressedImage:
    packed = encode_compressed(bgr, quality=quality)
    return CompressedImage(header=header, format=packed.format, data=as_array(packed.data))


def _mask(shape: tuple[int, ...], derained: Derained | None, params: NodeParams) -> np.ndarray:
    if derained is None:
        return np.zeros(shape[:2], np.uint8)
    if params.mask_mode == "soft":
        return derained.streaks
    return streak_mask(derained.streaks, params.mask_threshold)


def image_size_of(info: CameraInfo) -> tuple[int, int]:
    """Height and width of the image that a camera_info is for; (0, 0) for a camera without calibration.

    Its own height and width are the full resolution. The image shows the region of interest, whose 0 means all of
    that, reduced by the binning, whose 0 means 1.
    """
    height, width = info.roi.height or info.height, info.roi.width or info.width
    return height // max(1, info.binning_y), width // max(1, info.binning_x)


def _mismatch(info: CameraInfo, header: Header, size: tuple[int, ...]) -> str:
    """How a camera_info contradicts its frame; empty if it does not."""
    wrong = []
    height, width = image_size_of(info)
    # Drivers round either way if the size is not a multiple of the binning.
    fits = height <= size[0] <= height + (info.binning_y > 1) and width <= size[1] <= width + (info.binning_x > 1)
    if (height, width) != (0, 0) and not fits:
        wrong.append(f"size {height}x{width}, the frame's is {size[0]}x{size[1]}")
    if info.header.frame_id != header.frame_id:
        wrong.append(f"frame_id {quoted(info.header.frame_id)}, the frame's is {quoted(header.frame_id)}")
    return f"camera_info has {' and '.join(wrong)}" if wrong else ""
