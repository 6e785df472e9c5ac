"""The message types that are decoded and encoded, and stamps, which are read without decoding."""

from __future__ import annotations

import struct
import sys
from typing import Any, cast

from rosbags.interfaces import Qos
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from sapnet.bags.recording import Schema, Topic
from sapnet.images.messages import Decoded, decode_compressed, decode_image

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "CAMERA_INFO",
    "COMPRESSED_IMAGE",
    "IMAGE",
    "TYPESTORE",
    "MessageError",
    "decode_fields",
    "described_topic",
    "deserialize",
    "header_stamp",
    "serialize",
    "zstd",
]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"

# The layout of the messages above has been the same since ROS 2 Dashing.
TYPESTORE = get_typestore(Stores.ROS2_JAZZY)


class MessageError(ValueError):
    """The bytes of a message are cut off, or not of its type."""


def deserialize(data: bytes, type_name: str) -> Any:
    """A CDR message of a standard type. Raises MessageError if it is cut off or no such message."""
    try:
        return TYPESTORE.deserialize_cdr(data, type_name)
    except SerdeError as err:
        raise MessageError(f"{len(data)} bytes are no {type_name}: {err}") from err


def decode_fields(message: Any, type_name: str) -> Decoded:
    """The frame of an Image or CompressedImage. Raises ImageFormatError."""
    return decode_compressed(message) if type_name == COMPRESSED_IMAGE else decode_image(message)


def serialize(message: object, type_name: str) -> bytes:
    """CDR, little-endian."""
    return bytes(TYPESTORE.serialize_cdr(message, type_name))


def described_topic(name: str, type_name: str, qos: tuple[Qos, ...]) -> Topic:
    """A topic of a standard type, with its definition and hash."""
    schema = Schema("ros2msg", TYPESTORE.generate_msgdef(type_name, ros_version=2)[0].encode())
    return Topic(name, type_name, qos, schema, TYPESTORE.hash_rihs01(type_name))


def header_stamp(data: bytes) -> int:
    """Stamp, in nanoseconds, of a CDR message that begins with a std_msgs/Header. Raises MessageError if it is cut."""
    if len(data) < 12:
        raise MessageError(f"{len(data)} bytes are too few for a message with a header")
    # CDR: four bytes of encapsulation, the second one odd for little-endian, then seconds and nanoseconds.
    sec, nanosec = cast("tuple[int, int]", struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4))
    return sec * 10**9 + nanosec
