"""Message types of recordings, and what is read out of a message without decoding it."""

from __future__ import annotations

import struct
import sys
from typing import Any, cast

from rosbags.typesys import Stores, get_typestore

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["CAMERA_INFO", "COMPRESSED_IMAGE", "IMAGE", "TYPESTORE", "deserialize", "header_stamp", "serialize", "zstd"]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"

# The layout of the messages above has been the same since ROS 2 Dashing.
TYPESTORE = get_typestore(Stores.ROS2_JAZZY)


def deserialize(data: bytes, type_name: str) -> Any:
    """A CDR message of a standard type. Raises ValueError where it is cut off or no such message."""
    try:
        return TYPESTORE.deserialize_cdr(data, type_name)
    # What the library raises depends on the byte that is wrong.
    except Exception as err:
        raise ValueError(f"{len(data)} bytes are no {type_name}: {type(err).__name__}: {err}") from err


def serialize(message: object, type_name: str) -> memoryview:
    """CDR, little-endian."""
    return TYPESTORE.serialize_cdr(message, type_name)


def header_stamp(data: bytes) -> int:
    """Stamp, in nanoseconds, of a CDR message that begins with a std_msgs/Header. Raises ValueError where it is cut."""
    if len(data) < 12:
        raise ValueError(f"{len(data)} bytes are too few for a message with a header")
    # CDR: four bytes of encapsulation, the second one odd for little-endian, then seconds and nanoseconds.
    sec, nanosec = cast("tuple[int, int]", struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4))
    return sec * 10**9 + nanosec
