"""Message types of recordings, and what is read out of a message without decoding it."""

from __future__ import annotations

import struct
import sys
from typing import Any, cast

from rosbags.interfaces import MessageDefinitionFormat, Qos
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys import Stores, get_typestore

from sapnet.images.messages import Decoded, decode_compressed, decode_image

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "CAMERA_INFO",
    "COMPRESSED_IMAGE",
    "FORMATS",
    "IMAGE",
    "TYPESTORE",
    "decode_fields",
    "deserialize",
    "header_stamp",
    "parsed_qos",
    "serialize",
    "zstd",
]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"

# What recordings call the languages of their definitions. rosbag2 writes ``unknown`` where it found none.
FORMATS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}

# The layout of the messages above has been the same since ROS 2 Dashing.
TYPESTORE = get_typestore(Stores.ROS2_JAZZY)


def deserialize(data: bytes, type_name: str) -> Any:
    """A CDR message of a standard type. Raises ValueError where it is cut off or no such message."""
    try:
        return TYPESTORE.deserialize_cdr(data, type_name)
    except MemoryError:
        raise
    # What the library raises depends on the byte that is wrong.
    except Exception as err:
        raise ValueError(f"{len(data)} bytes are no {type_name}: {type(err).__name__}: {err}") from err


def decode_fields(message: Any, type_name: str) -> Decoded:
    """The frame in an Image or CompressedImage. Raises ImageFormatError."""
    return decode_compressed(message) if type_name == COMPRESSED_IMAGE else decode_image(message)


def serialize(message: object, type_name: str) -> memoryview:
    """CDR, little-endian."""
    return TYPESTORE.serialize_cdr(message, type_name)


def parsed_qos(profiles: Any) -> tuple[Qos, ...]:
    """QoS profiles as some version of rosbag2 has written them; none where they cannot be read."""
    try:
        return tuple(parse_qos(profiles))
    # They may be anything that somebody wrote into the file.
    except Exception:
        return ()


def header_stamp(data: bytes) -> int:
    """Stamp, in nanoseconds, of a CDR message that begins with a std_msgs/Header. Raises ValueError where it is cut."""
    if len(data) < 12:
        raise ValueError(f"{len(data)} bytes are too few for a message with a header")
    # CDR: four bytes of encapsulation, the second one odd for little-endian, then seconds and nanoseconds.
    sec, nanosec = cast("tuple[int, int]", struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4))
    return sec * 10**9 + nanosec
