"""Recordings for tests, most of them written with rosbags: images, types of ROS 2 and types of our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mcap.writer import Writer as McapWriter
from numpy.typing import NDArray
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from sapnet.bags.recording import Recording
from sapnet.bags.types import described_topic
from sapnet.bags.writer import BagWriter

Frame = NDArray[np.uint8]

START_NS = 1_700_000_000_000_000_000
FRAME_NS = 40_000_000
WHEEL = "our_msgs/msg/Wheel"
NEVER = QosTime(2147483647, 4294967295)
TYPES = get_typestore(Stores.ROS2_JAZZY)
ROS1_TYPES = get_typestore(Stores.ROS1_NOETIC)
TYPES.register(get_types_from_msg("bool locked\nfloat64 speed\nstring name\n", WHEEL))


class Sent(NamedTuple):
    """A message to record; data: CDR."""

    topic: str
    type: str
    time_ns: int
    data: bytes


def cdr(topic: str, time_ns: int, message: Any) -> Sent:
    return Sent(topic, message.__msgtype__, time_ns, bytes(TYPES.serialize_cdr(message, message.__msgtype__)))


def header(stamp_ns: int, frame_id: str = "camera") -> Any:
    stamp = TYPES.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return TYPES.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def image(
    topic: str, stamp_ns: int, frame: Frame, encoding: str = "bgr8", frame_id: str = "camera", pad: int = 0
) -> Sent:
    """A frame of any dtype (H, W) or (H, W, C), as an Image, logged a millisecond after its stamp."""
    rows = np.ascontiguousarray(frame).reshape(len(frame), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, pad)))
    message = TYPES.types["sensor_msgs/msg/Image"](
        header=header(stamp_ns, frame_id),
        height=frame.shape[0],
        width=frame.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.reshape(-1),
    )
    return cdr(topic, stamp_ns + 1_000_000, message)


def compressed(topic: str, stamp_ns: int, frame: Frame, codec: str = "jpeg", quality: int = 95) -> Sent:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if codec == "jpeg" else []
    content = cv2.imencode(".jpg" if codec == "jpeg" else ".png", frame, options)[1].reshape(-1)
    message = TYPES.types["sensor_msgs/msg/CompressedImage"](
        header=header(stamp_ns), format=f"bgr8; {codec} compressed bgr8", data=content
    )
    return cdr(topic, stamp_ns + 1_000_000, message)


def camera_info(
    topic: str, stamp_ns: int, width: int = 32, log_ns: int | None = None, height: int = 24, focal: float = 0.1
) -> Sent:
    """A camera_info that is told by its width, or by its focal length."""
    roi = TYPES.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    matrices = [np.arange(length) + number / 10 for number, length in enumerate((5, 9, 9, 12))]
    make = TYPES.types["sensor_msgs/msg/CameraInfo"]
    matrices[1][0] = focal
    message = make(header(stamp_ns, "from_info"), height, width, "plumb_bob", *matrices, 0, 0, roi)
    return cdr(topic, stamp_ns if log_ns is None else log_ns, message)


def text(topic: str, time_ns: int, words: str) -> Sent:
    return cdr(topic, time_ns, TYPES.types["std_msgs/msg/String"](data=words))


def wheel(topic: str, time_ns: int, speed: float) -> Sent:
    """Of a type of our own; seven bytes of its CDR are padding, before the speed."""
    return cdr(topic, time_ns, TYPES.types[WHEEL](locked=True, speed=speed, name="front left"))


def profile(durability: str, depth: int = 1, lifespan: QosTime = NEVER) -> Qos:
    """Of a best-effort publisher."""
    kept, sent = QosHistory.KEEP_LAST, QosReliability.BEST_EFFORT
    return Qos(kept, depth, sent, QosDurability[durability], NEVER, lifespan, QosLiveliness.AUTOMATIC, NEVER, False)


def read_bag(path: Path) -> list[Sent]:
    """All messages, by the library's own reader."""
    with Reader(path) as reader:
        return [Sent(c.topic, c.msgtype, time_ns, bytes(data)) for c, time_ns, data in reader.messages()]


def recorded(bag: Recording) -> list[Sent]:
    """All messages, by this package's reader."""
    return [Sent(message.topic.name, message.topic.type, message.time_ns, message.data) for message in bag.messages()]


def as_ros1(value: Any) -> Any:
    """A message of ROS 1 with the same fields: their names may differ in case, and headers count."""
    if isinstance(value, list):
        return [as_ros1(item) for item in value]
    if not hasattr(value, "__msgtype__"):
        return value
    kind = value.__msgtype__.replace("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")  # of ROS 1's first years
    fields = {name.lower(): as_ros1(field) for name, field in vars(value).items()}
    return ROS1_TYPES.types[kind](*(fields.get(name.lower(), 7) for name, _ in ROS1_TYPES.fielddefs[kind][1]))


def ros1_bag(path: Path, messages: Iterable[Sent], compression: str = "BZ2", chunk_bytes: int = 2**20) -> Path:
    """The messages as ROS 1 has them, in chunks. compression: of the chunks, by its name in rosbags; empty for none."""
    writer = Ros1Writer(path)
    if compression:
        writer.set_compression(Ros1Writer.CompressionFormat[compression])
    writer.chunk_threshold = chunk_bytes
    with writer:
        connections: dict[str, Any] = {}
        for sent in messages:
            message = as_ros1(TYPES.deserialize_cdr(sent.data, sent.type))
            kind = message.__msgtype__
            if sent.topic not in connections:
                connections[sent.topic] = writer.add_connection(sent.topic, kind, typestore=ROS1_TYPES)
            writer.write(connections[sent.topic], sent.time_ns, ROS1_TYPES.serialize_ros1(message, kind))
    return path


def write_bag(
    path: Path,
    messages: Iterable[Sent],
    storage: str = "mcap",
    topics: Sequence[tuple[str, str]] = (),
    qos: Mapping[str, Qos] | None = None,
) -> Path:
    """A rosbag2 folder. topics: names and types that are recorded first, even without a message. qos: by topic."""
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        messages = list(messages)
        connections: dict[tuple[str, str], Any] = {}
        for key in dict.fromkeys([*topics, *((sent.topic, sent.type) for sent in messages)]):
            profiles = [qos[key[0]]] if qos and key[0] in qos else []
            connections[key] = writer.add_connection(*key, typestore=TYPES, offered_qos_profiles=profiles)
        for sent in messages:
            writer.write(connections[sent.topic, sent.type], sent.time_ns, sent.data)
    return path


def smooth_frames(count: int, height: int = 24, width: int = 32, seed: int = 0) -> list[Frame]:
    """Blurred noise, which JPEG keeps nearly as it is."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)
    return [cv2.GaussianBlur(frame, (0, 0), 4).astype(np.uint8) for frame in noise]


def camera(count: int, topic: str = "/cam/image_raw", height: int = 24, width: int = 32) -> list[Sent]:
    """Frames of a camera."""
    frames = enumerate(smooth_frames(count, height, width))
    return [image(topic, START_NS + number * FRAME_NS, frame) for number, frame in frames]


def drive(count: int) -> list[Sent]:
    """A camera and words, in turn."""
    words = (text("/log", START_NS + number * FRAME_NS + 2 * 10**6, str(number)) for number in range(count))
    return [sent for pair in zip(camera(count, height=48, width=64), words, strict=True) for sent in pair]


def changed(sent: Sent, place: int) -> Sent:
    """Its byte at ``place``, counted from the end where negative, is another one."""
    data = bytearray(sent.data)
    data[place] ^= 1
    return sent._replace(data=bytes(data))


def split_bag(
    path: Path,
    groups: Sequence[Sequence[Sent]],
    storage: str = "mcap",
    compression: str = "none",
    qos: tuple[Qos, ...] = (),
) -> Path:
    """A rosbag2 folder with a file for each group of messages, as rosbag2 splits; every topic is in every file."""
    topics = dict.fromkeys((sent.topic, sent.type) for group in groups for sent in group)
    with BagWriter(path, storage, compression, {"vehicle": "7"}) as writer:
        numbers = {key: writer.add(described_topic(*key, qos, TYPES)) for key in topics}
        for group in groups:
            for sent in group:
                writer.write(numbers[sent.topic, sent.type], sent.time_ns, sent.data)
            writer.end()
    return path


def mcap_file(path: Path, messages: Sequence[Sent], *options: Any) -> Path:
    """A file of the mcap library's writer. options: of it."""
    with path.open("wb") as stream:
        writer = McapWriter(stream, *options)
        writer.start("ros2", "test")
        channels: dict[tuple[str, str], int] = {}
        for sent in messages:
            key = sent.topic, sent.type
            if key not in channels:
                definition = TYPES.generate_msgdef(sent.type, ros_version=2)[0].encode()
                schema = writer.register_schema(sent.type, "ros2msg", definition)
                metadata = {"topic_type_hash": TYPES.hash_rihs01(sent.type)}
                channels[key] = writer.register_channel(sent.topic, "cdr", schema, metadata)
            writer.add_message(channels[key], sent.time_ns, sent.data, sent.time_ns)
        writer.finish()
    return path
