"""sensor_msgs Image and CompressedImage <-> numpy, by the fields of the messages: works on those of rclpy and rosbags.

Everything that is wrong with a message raises ImageFormatError, whose ``kind`` says what:
``encoding`` (not supported), ``size`` (no pixels, or not divisible as the encoding needs), ``limit`` (more than
``max_pixels``), ``step`` (less than a row), ``data`` (too short or too long for height and step), ``decode``
(broken JPEG or PNG).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import cv2
import numpy as np

from sapnet.errors import ImageFormatError
from sapnet.images.codecs import codec_of, compress, decompress, stored_size
from sapnet.images.frame import Frame
from sapnet.images.pixel_formats import BAYER, PIXEL_FORMATS, PixelFormat, Pixels, to_8_bit

MAX_PIXELS = 33_177_600  # 7680 x 4320
MAX_QUOTED = 80  # characters of a message's text in an error; its publisher may make it megabytes long
IMAGE_ENCODINGS = tuple(PIXEL_FORMATS)
OUTPUT_ENCODINGS = ("bgr8", "same")

# What frames can be published as, by OpenCV's conversion from BGR; these are what "same" keeps.
_FROM_BGR = {
    "bgr8": None,
    "rgb8": cv2.COLOR_BGR2RGB,
    "bgra8": cv2.COLOR_BGR2BGRA,
    "rgba8": cv2.COLOR_BGR2RGBA,
    "mono8": cv2.COLOR_BGR2GRAY,
}
_BY_CHANNELS = {1: cv2.COLOR_GRAY2BGR, 3: None, 4: cv2.COLOR_BGRA2BGR}


@dataclass(frozen=True, eq=False)
class Decoded:
    """A frame taken from a message.

    bgr: uint8 (H, W, 3), contiguous. It may share the message's memory: read it, don't write to it.
    encoding: of the message it came from; of a CompressedImage, what its format field says was compressed.
    alpha: uint8 (H, W) where the message has alpha, else None.
    deep: uint16 (H, W), the samples of a mono16 message as they came, else None.
    """

    bgr: Frame
    encoding: str
    alpha: Frame | None = None
    deep: Pixels | None = None


def image_size(msg: Any, compressed: bool, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of an Image by its fields, or of a CompressedImage by its JPEG or PNG header.

    Nothing is decoded. Raises ImageFormatError where there are no pixels or more than ``max_pixels``.
    """
    if compressed:
        return _checked_size(*stored_size(_content(msg)), max_pixels)
    return _checked_size(msg.height, msg.width, max_pixels)


def decode_image(msg: Any, max_pixels: int = MAX_PIXELS, input_bits: int = 0) -> Decoded:
    """The frame in a sensor_msgs/Image of one of IMAGE_ENCODINGS.

    input_bits: of 16-bit samples, those that the camera uses; 0: all.
    """
    height, width = image_size(msg, compressed=False, max_pixels=max_pixels)
    if (pixel_format := PIXEL_FORMATS.get(msg.encoding)) is None:
        supported = ", ".join(IMAGE_ENCODINGS)
        raise ImageFormatError(
            f"encoding {quoted(msg.encoding)} is not supported; supported are {supported}", kind="encoding"
        )
    data = np.frombuffer(msg.data, np.uint8)
    step = _checked_step(msg, pixel_format, data.size)
    with _opencv_errors(height, width):
        pixels = pixel_format.read(data, width, step, bool(msg.is_bigendian))
        return _decoded(pixels, msg.encoding, pixel_format.code, input_bits)


def decode_compressed(msg: Any, max_pixels: int = MAX_PIXELS, input_bits: int = 0) -> Decoded:
    """The frame in a sensor_msgs/CompressedImage that holds a JPEG or PNG; its size is checked before it is decoded.

    input_bits: of 16-bit samples, those that the camera uses; 0: all.
    """
    content = _content(msg)
    height, width = _checked_size(*stored_size(content), max_pixels)
    with _opencv_errors(height, width):
        pixels = decompress(content)
        if pixels.shape[:2] != (height, width):
            raise ImageFormatError(
                f"the header says {width}x{height}, decoded were {pixels.shape[1]}x{pixels.shape[0]}", kind="decode"
            )
        encoding, code = _stored_as(msg.format, 1 if pixels.ndim == 2 else pixels.shape[2])
        return _decoded(pixels, encoding, code, input_bits)


def _decoded(pixels: Pixels, encoding: str, code: int | None, input_bits: int) -> Decoded:
    """From the samples of an image, and OpenCV's conversion of them to BGR."""
    eight_bit = to_8_bit(pixels, input_bits)
    alpha: Pixels | None = cv2.extractChannel(eight_bit, 3) if pixels.shape[2:] == (4,) else None
    is_deep = encoding == "mono16" and pixels.itemsize == 2 and pixels.ndim == 2
    bgr: Pixels = eight_bit if code is None else cv2.cvtColor(eight_bit, code)
    return Decoded(np.ascontiguousarray(bgr), encoding, alpha, pixels if is_deep else None)


def encode_image(frame: Pixels, encoding: str, alpha: Frame | None = None) -> SimpleNamespace:
    """The fields of an Image but for its header; data is uint8 (step * height,), of the frame itself where possible.

    frame: uint8 BGR (H, W, 3) for bgr8, rgb8, bgra8, rgba8 or mono8; or gray: uint8 (H, W) for mono8, uint16 (H, W) of
    either byte order for mono16. alpha: uint8 (H, W) for bgra8 and rgba8; opaque where it is None.
    """
    height, width = frame.shape[:2]
    with _opencv_errors(height, width):
        code = None if frame.ndim == 2 else _FROM_BGR[encoding]
        pixels: Pixels = np.ascontiguousarray(frame) if code is None else cv2.cvtColor(frame, code)
        if alpha is not None and encoding in ("bgra8", "rgba8"):
            cv2.insertChannel(alpha, pixels, 3)
    data = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
    step = data.size // height
    return SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=0, step=step, data=data)


def encode_compressed(
    frame: Frame, quality: int = 95, source_encoding: str = "bgr8", codec: Literal["jpeg", "png"] = "jpeg"
) -> SimpleNamespace:
    """The fields of a CompressedImage but for its header; data is uint8 (N,).

    frame: uint8, BGR (H, W, 3) or gray (H, W), to be a JPEG of that quality (1 to 100) or a PNG. ``format`` is written
    as image_transport does for a raw image of ``source_encoding``, whose alpha it drops too.
    """
    with _opencv_errors(*frame.shape[:2]):
        to_gray = source_encoding == "mono8" and frame.ndim == 3
        pixels: Pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) if to_gray else frame
        data = compress(pixels, codec, quality)
    stored = "bgr8" if pixels.ndim == 3 else "mono8" if codec == "jpeg" else ""
    return SimpleNamespace(format=f"{source_encoding}; {codec} compressed {stored}", data=data)


def quoted(text: str) -> str:
    """A text from a message for an error, cut to MAX_QUOTED characters."""
    return repr(text) if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]!r}... ({len(text)} characters)"


def output_encoding(requested: str, source: str) -> str:
    """The encoding to publish in: ``bgr8``, or with ``same`` the source's where frames can be written in it."""
    return source if requested == "same" and source in _FROM_BGR else "bgr8"


def _checked_size(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    if height < 1 or width < 1:
        raise ImageFormatError(f"the image is {width}x{height}: it has no pixels", kind="size")
    if height * width > max_pixels:
        raise ImageFormatError(
            f"the image is {width}x{height}, {height * width} pixels; max_pixels allows {max_pixels}: "
            "raise it if this camera is that large",
            kind="limit",
        )
    return height, width


def _checked_step(msg: Any, pixel_format: PixelFormat, length: int) -> int:
    """Bytes from row to row of an Image with ``length`` bytes of data."""
    height, width, step, encoding = msg.height, msg.width, msg.step, msg.encoding
    rows, columns = pixel_format.multiple_of
    if height % rows or width % columns or min(height, width) < pixel_format.smallest:
        raise ImageFormatError(
            f"the image is {width}x{height}; {encoding} needs a width that is a multiple of {columns}, "
            f"a height that is one of {rows}, and {pixel_format.smallest} of each at least",
            kind="size",
        )
    row_bytes = pixel_format.row_bytes(width)
    if step * height == length == pixel_format.total_bytes(height, row_bytes):
        # Some drivers write size / height as the step of planar images.
        return row_bytes
    if step < row_bytes:
        raise ImageFormatError(f"step is {step}; a row of {width} {encoding} pixels has {row_bytes} bytes", kind="step")
    expected = pixel_format.total_bytes(height, step)
    if length != expected:
        raise ImageFormatError(
            f"data has {length} bytes, too {'few' if length < expected else 'many'}: height {height} and step {step} "
            f"make {expected} for {encoding}",
            kind="data",
        )
    return int(step)


def _content(msg: Any) -> bytes:
    """The compressed bytes, which are those of a JPEG or PNG."""
    content, declared = bytes(msg.data), msg.format
    if "compresseddepth" in declared.lower():
        raise ImageFormatError(
            f"format {quoted(declared)} is a depth image; subscribe to a colour camera", kind="encoding"
        )
    if codec_of(content):
        return content
    if any(name in declared.lower() for name in ("jpeg", "jpg", "png")):
        raise ImageFormatError(
            f"format is {quoted(declared)}, but the data are neither JPEG nor PNG: {len(content)} bytes, the first of "
            f"them {content[:8].hex(' ') or 'missing'}",
            kind="decode",
        )
    raise ImageFormatError(f"format {quoted(declared)} is not supported; supported are JPEG and PNG", kind="encoding")


def _stored_as(declared: str, channels: int) -> tuple[str, int | None]:
    """What was compressed, by a format such as ``rgb8; jpeg compressed bgr8``, and how to get BGR from what is stored.

    image_transport names no stored encoding where it left the samples as they were: then Bayer is still a mosaic.
    """
    encoding, _, codec = declared.partition(";")
    if channels == 1 and encoding in BAYER and not codec.partition("compressed")[2].strip():
        return encoding, BAYER[encoding].code
    if encoding not in PIXEL_FORMATS:
        encoding = "mono8" if channels == 1 else "bgr8"
    return encoding, _BY_CHANNELS[channels]


@contextmanager
def _opencv_errors(height: int, width: int) -> Iterator[None]:
    try:
        yield
    except (cv2.error, MemoryError) as err:
        raise ImageFormatError(f"a {width}x{height} image could not be converted: {err}", kind="decode") from err
