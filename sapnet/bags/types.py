"""Message types: those that are decoded and encoded, and any other as its recording defines it."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, cast

import numpy as np
from rosbags.interfaces import Qos
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2 import metadata as rosbag2_metadata
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from sapnet.bags.recording import CDR, Message, Schema, Topic
from sapnet.errors import ImageFormatError
from sapnet.images.messages import Decoded, decode_compressed, decode_image, encode_compressed, encode_image

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
_HEADER = "std_msgs/msg/Header"

# The layout of the messages above has been the same since ROS 2 Dashing.
TYPESTORE = get_typestore(Stores.ROS2_JAZZY)


class MessageError(ImageFormatError, ValueError):
    """The bytes of a message are cut off, or not of its type."""


@dataclass(frozen=True, eq=False)
class BagFrame:
    """A frame of a recorded message.

    message: an Image or CompressedImage. codec: ``jpeg`` or ``png`` for a CompressedImage, else empty.
    """

    decoded: Decoded
    message: Any
    codec: str


def deserialize(data: bytes, type_name: str) -> Any:
    """A CDR message of a standard type. Raises MessageError if it is cut off or no such message."""
    try:
        return TYPESTORE.deserialize_cdr(data, type_name)
    except SerdeError as err:
        raise MessageError(f"{len(data)} bytes are no {type_name}: {err}", "decode") from err


def serialize(message: Any) -> bytes:
    """CDR, little-endian, of a message of the standard types."""
    return bytes(TYPESTORE.serialize_cdr(message, message.__msgtype__))


def decode(recorded: Message) -> BagFrame:
    """The frame in a recorded Image or CompressedImage. Raises ImageFormatError."""
    message = deserialize(recorded.data, recorded.topic.type)
    if recorded.topic.type == IMAGE:
        return BagFrame(decode_image(message), message, "")
    codec = "png" if bytes(message.data[:4]) == b"\x89PNG" else "jpeg"
    return BagFrame(decode_compressed(message), message, codec)


def encode(
    header: Any, pixels: np.ndarray[Any, Any], encoding: str, codec: str, quality: int, alpha: Any = None
) -> bytes:
    """CDR of an Image, or with a ``codec`` of a CompressedImage, with uint8 (H, W, 3) BGR or (H, W) pixels."""
    if codec:
        packed = encode_compressed(pixels, quality, encoding, "png" if codec == "png" else "jpeg")
        return serialize(TYPESTORE.types[COMPRESSED_IMAGE](header=header, **vars(packed)))
    fields = encode_image(pixels, encoding, alpha)
    return serialize(TYPESTORE.types[IMAGE](header=header, **vars(fields)))


def described_topic(name: str, type_name: str, qos: tuple[Qos, ...], store: Typestore = TYPESTORE) -> Topic:
    """A topic of a type that a store has, with its definition and hash."""
    schema = Schema("ros2msg", store.generate_msgdef(type_name, ros_version=2)[0].encode())
    return Topic(name, type_name, qos, schema, store.hash_rihs01(type_name))


def header_stamp(data: bytes) -> int:
    """Stamp, in nanoseconds, of a CDR message that begins with a std_msgs/Header. Raises MessageError if it is cut."""
    if len(data) < 12:
        raise MessageError(f"{len(data)} bytes are too few for a message with a header")
    # CDR: four bytes of encapsulation, the second one odd for little-endian, then seconds and nanoseconds.
    sec, nanosec = cast("tuple[int, int]", struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4))
    return sec * 10**9 + nanosec


def stamp_of(message: Message) -> int | None:
    """Stamp of a message that begins with a std_msgs/Header, in nanoseconds; None if it has none, or it is unset."""
    store = _store_of(message.topic)
    fields = store.fielddefs[message.topic.type][1] if store else []
    if not fields or fields[0][1][1] != _HEADER:
        return None
    with suppress(MessageError):
        return header_stamp(message.data) or None
    return None


def digest_of(message: Message) -> bytes:
    """Equal for messages with equal fields, whatever their padding and byte order.

    Of the bytes where the type is not known, or where they are not of that type.
    """
    data, type_name, store = message.data, message.topic.type, _store_of(message.topic)
    if store is not None:
        with suppress(SerdeError):
            decoded = store.deserialize_cdr(data, type_name)
            data = bytes(store.serialize_cdr(decoded, type_name, little_endian=True))
    return blake2b(data).digest()


def definition_of(topic: Topic) -> str:
    """The definition of a topic's type without comments and spaces; as it is where it cannot be parsed."""
    if store := _store_of(topic):
        return store.generate_msgdef(topic.type, ros_version=2)[0]
    return f"{topic.schema.encoding} {topic.schema.data.hex()}"


def _store_of(topic: Topic) -> Typestore | None:
    return _parsed(topic.type, topic.schema) if topic.encoding == CDR else None


@cache
def _parsed(type_name: str, schema: Schema) -> Typestore | None:
    """What knows a type: by its definition, else as ROS 2 has it; None where nothing does."""
    if schema.data and schema.encoding == "ros2msg":
        store = get_typestore(Stores.EMPTY)
        # A definition may be anything that was written into the file.
        with suppress(TypesysError, SerdeError, KeyError, ValueError, RecursionError):
            store.register(get_types_from_msg(schema.data.decode(errors="replace"), type_name))
            store.get_msgdef(type_name)
            return store
    return TYPESTORE if type_name in TYPESTORE.fielddefs else None


def parse_qos(profiles: Any) -> tuple[Qos, ...]:
    """QoS profiles as any version of rosbag2 writes them: YAML text or a list. Empty if they are malformed."""
    try:
        parsed = tuple(rosbag2_metadata.parse_qos(profiles))
    except (ReaderError, LookupError, TypeError, AttributeError, ValueError, RecursionError):
        return ()
    times = [time for qos in parsed for time in (qos.deadline, qos.lifespan, qos.liveliness_lease_duration)]
    numbers = [*(qos.depth for qos in parsed), *(number for time in times for number in time)]
    return parsed if all(type(number) is int and 0 <= number < 2**64 for number in numbers) else ()
