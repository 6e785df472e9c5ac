"""Decodes recorded images, and encodes derained frames as messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sapnet.bags.recording import Message
from sapnet.bags.types import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    TYPESTORE,
    MessageError,
    decode_fields,
    deserialize,
    serialize,
)
from sapnet.errors import ImageFormatError
from sapnet.images.frame import require_frame
from sapnet.images.messages import (
    Decoded,
    encode_compressed,
    encode_image,
    output_encoding,
)

_IMAGE = TYPESTORE.types[IMAGE]
_COMPRESSED = TYPESTORE.types[COMPRESSED_IMAGE]


@dataclass(frozen=True, eq=False)
class BagFrame:
    """A frame of a recorded message.

    header: of the message. codec: ``jpeg`` or ``png`` for a CompressedImage, else empty.
    info: CDR of the matching camera_info, if there is one.
    """

    decoded: Decoded
    header: Any
    codec: str
    info: bytes | None


def decode(recorded: Message, info: bytes | None) -> BagFrame:
    """The frame in a recorded Image or CompressedImage. Raises ImageFormatError."""
    try:
        message = deserialize(recorded.data, recorded.topic.type)
    except MessageError as err:
        raise ImageFormatError(str(err), "decode") from err
    decoded, codec = decode_fields(message, recorded.topic.type), ""
    if recorded.topic.type == COMPRESSED_IMAGE:
        codec = "png" if bytes(message.data[:4]) == b"\x89PNG" else "jpeg"
    require_frame(decoded.bgr)
    return BagFrame(decoded, message.header, codec, info)


def encode(
    header: Any, pixels: np.ndarray[Any, Any], encoding: str, codec: str, quality: int, alpha: Any = None
) -> bytes:
    """CDR of an Image, or with a ``codec`` of a CompressedImage, with uint8 (H, W, 3) BGR or (H, W) pixels."""
    if codec:
        packed = encode_compressed(pixels, quality, encoding, "png" if codec == "png" else "jpeg")
        return serialize(_COMPRESSED(header=header, format=packed.format, data=packed.data), COMPRESSED_IMAGE)
    fields = encode_image(pixels, encoding, alpha)
    return serialize(
        _IMAGE(
            header=header,
            height=fields.height,
            width=fields.width,
            encoding=fields.encoding,
            is_bigendian=fields.is_bigendian,
            step=fields.step,
            data=fields.data,
        ),
        IMAGE,
    )


def encode_info(header: Any, info: bytes) -> bytes | None:
    """A recorded camera_info with another header; None if it cannot be decoded."""
    try:
        message = deserialize(info, CAMERA_INFO)
    except MessageError:
        return None
    message.header = header
    return serialize(message, CAMERA_INFO)


def kept_encoding(frame: BagFrame) -> str:
    """The source's encoding if frames can be written in it, else ``bgr8``."""
    return output_encoding("same", frame.decoded.encoding)
