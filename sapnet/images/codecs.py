"""JPEG and PNG: their size from the header, before anything is decoded, and their pixels as they are stored."""

from __future__ import annotations

import re
import struct
import zlib

import cv2
import numpy as np

from sapnet.errors import ImageFormatError
from sapnet.images.frame import Frame
from sapnet.images.pixel_formats import Pixels

JPEG_QUALITY = 95

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_HEADER = b"\x89PNG\r\n\x1a\n", b"\0\0\0\x0dIHDR"
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
# Frame headers are C0 to CF, without the tables among them: DHT (C4), JPG (C8) and DAC (CC).
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD8)))  # TEM and RST0 to RST7 carry no length
_OUT_OF_PLACE = frozenset((0xD8, 0xD9, 0xDA))  # start of image, end of image, start of scan


def codec_of(content: bytes) -> str:
    """``jpeg`` or ``png`` by the first bytes, empty for anything else."""
    if content.startswith(_JPEG_START):
        return "jpeg"
    return "png" if content.startswith(_PNG_START) else ""


def stored_size(content: bytes) -> tuple[int, int]:
    """Height and width that the header of a complete JPEG or PNG gives; raises ImageFormatError (``decode``)."""
    return _png_size(content) if codec_of(content) == "png" else _jpeg_size(content)


def decompress(content: bytes) -> Pixels:
    """The pixels of a JPEG or PNG as stored: uint8 or uint16 (H, W) gray or (H, W, 3 or 4) BGR or BGRA, not rotated.

    Raises ImageFormatError (``decode``).
    """
    # IMREAD_UNCHANGED keeps depth and alpha and never applies an EXIF orientation.
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise _broken(codec_of(content), "its content cannot be decoded")
    return pixels


def compress(frame: Frame, codec: str, quality: int) -> Frame:
    """A uint8 frame, gray or BGR, as JPEG of that quality (1 to 100) or as PNG: uint8 (N,)."""
    parameters = (cv2.IMWRITE_JPEG_QUALITY, quality) if codec == "jpeg" else ()
    done, content = cv2.imencode(f".{codec}", frame, parameters)
    if not done:
        raise ImageFormatError(f"a frame {frame.shape} cannot be written as {codec.upper()}", kind="size")
    return content


def _png_size(content: bytes) -> tuple[int, int]:
    """Goes through all chunks first: OpenCV allocates what a damaged length claims, gigabytes where it says so."""
    rest, kind = memoryview(content)[len(_PNG_START) :], b""
    while kind != b"IEND":  # which padding may follow
        length, kind = struct.unpack_from(">I4s", rest) if len(rest) >= 12 else (0, b"")
        if not kind or length > len(rest) - 12:
            raise _broken("png", f"it ends before its IEND chunk, after {len(content)} bytes")
        if zlib.crc32(rest[4 : 8 + length]) != struct.unpack_from(">I", rest, 8 + length)[0]:
            raise _broken("png", f"the checksum of its chunk {kind!r} is wrong")
        rest = rest[12 + length :]
    if not content.startswith(_PNG_START + _PNG_HEADER):
        raise _broken("png", "it does not begin with its header, IHDR")
    width, height = struct.unpack_from(">II", content, len(_PNG_START + _PNG_HEADER))
    return height, width


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Goes to the frame header in libjpeg's way, from marker to marker."""
    position = 2
    while found := _MARKER.search(content, position):
        marker, position = found[1][0], found.end()
        if marker in _FRAME_HEADERS and position + 7 <= len(content):
            # A thumbnail's end stands before the frame header; padding may follow the true end.
            if content.rfind(_JPEG_END, position) < 0:
                raise _broken("jpeg", f"it ends before its end marker, after {len(content)} bytes")
            height, width = struct.unpack_from(">HH", content, position + 3)  # behind length and precision
            return height, width
        if marker in _OUT_OF_PLACE:
            raise _broken("jpeg", "its frame header is missing")
        if marker not in _BARE_MARKERS:
            position += int.from_bytes(content[position : position + 2], "big")
    raise _broken("jpeg", f"it ends before its frame header, after {len(content)} bytes")


def _broken(codec: str, why: str) -> ImageFormatError:
    return ImageFormatError(f"broken {codec.upper()}: {why}; check the publisher and the transport", kind="decode")
