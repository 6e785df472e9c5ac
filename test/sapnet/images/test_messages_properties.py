"""What holds for all messages: round trips over layouts, and hostile ones that only ever raise ImageFormatError."""

from __future__ import annotations

import array
import string
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from message_builders import message, packed
from sapnet.errors import ImageFormatError
from sapnet.images.messages import (
    IMAGE_ENCODINGS,
    Decoded,
    decode_compressed,
    decode_image,
    encode_image,
    image_size,
    output_encoding,
)

KINDS = {"encoding", "size", "step", "data", "decode", "limit"}
# Samples, bytes of each and the place of B, G and R among them.
PACKED = {
    "bgr8": (3, 1, [0, 1, 2]),
    "rgb8": (3, 1, [2, 1, 0]),
    "bgra8": (4, 1, [0, 1, 2]),
    "rgba8": (4, 1, [2, 1, 0]),
    "8UC1": (1, 1, [0, 0, 0]),
    "8UC3": (3, 1, [0, 1, 2]),
    "8UC4": (4, 1, [0, 1, 2]),
    "mono8": (1, 1, [0, 0, 0]),
    "bgr16": (3, 2, [0, 1, 2]),
    "rgb16": (3, 2, [2, 1, 0]),
    "bgra16": (4, 2, [0, 1, 2]),
    "rgba16": (4, 2, [2, 1, 0]),
    "mono16": (1, 2, [0, 0, 0]),
}
CONTAINERS = {
    "bytes": bytes,
    "bytearray": bytearray,
    "array": lambda content: array.array("B", content),
    "ndarray": lambda content: np.frombuffer(content, np.uint8),
    "memoryview": memoryview,
    "unaligned": lambda content: memoryview(b"\0" + content)[1:],
}

sides = st.integers(1, 40)
pads = st.integers(0, 9)
containers = st.sampled_from(sorted(CONTAINERS))
big_endian = st.sampled_from([0, 1])


@given(st.data(), st.sampled_from(sorted(PACKED)), sides, sides, pads, big_endian, containers)
def test_packed_pixels_are_read_exactly_and_written_back(data, encoding, height, width, pad, is_bigendian, container):
    samples, size, places = PACKED[encoding]
    stored = data.draw(npst.arrays(f"u{size}", (height, width, samples)))
    msg = packed(stored, encoding, pad, is_bigendian)
    msg.data = CONTAINERS[container](bytes(msg.data))
    decoded = decode_image(msg)
    expected = stored if size == 1 else np.round(stored / 257).astype(np.uint8)
    np.testing.assert_array_equal(decoded.bgr, expected[..., places])
    assert decoded.bgr.flags.c_contiguous
    if output_encoding("same", encoding) == encoding:
        fields = encode_image(decoded.bgr, encoding, decoded.alpha)
        assert (fields.height, fields.width, fields.encoding) == (height, width, encoding)
        assert fields.step * height == fields.data.size
        assert fields.data.tobytes() == stored.tobytes()


def outcome(decode, msg, max_pixels):
    """A frame within the limit or an ImageFormatError: nothing else may come of a message."""
    try:
        decoded = decode(msg, max_pixels=max_pixels)
    except ImageFormatError as error:
        return error
    height, width, channels = decoded.bgr.shape
    assert height * width <= max_pixels
    assert (channels, decoded.bgr.dtype) == (3, np.uint8)
    return decoded


def assert_accounted_for(result):
    assert isinstance(result, Decoded) or (result.kind in KINDS and str(result))


uint32 = st.one_of(st.integers(0, 64), st.sampled_from([2**16, 2**31 - 1, 2**31, 2**32 - 1]))


@given(
    height=uint32,
    width=uint32,
    step=uint32,
    encoding=st.one_of(st.sampled_from(IMAGE_ENCODINGS), st.text(string.printable, max_size=12)),
    is_bigendian=st.integers(0, 255),
    data=st.binary(max_size=512),
)
def test_hostile_images(height, width, step, encoding, is_bigendian, data):
    assert_accounted_for(outcome(decode_image, message(height, width, encoding, step, data, is_bigendian), 400))


@given(st.data(), st.sampled_from(IMAGE_ENCODINGS), st.integers(0, 24), st.integers(0, 24), st.integers(0, 120))
def test_nearly_right_images(data, encoding, height, width, step):
    """Sizes and lengths that often fit together, so that most of them reach the conversion."""
    factors = {"nv12": [1.5, 1], "nv21": [1.5, 1], "nv24": [3, 1]}.get(encoding, [1])
    length = int(step * height * data.draw(st.sampled_from(factors))) + data.draw(st.sampled_from([0, 0, 0, -1, 1]))
    msg = message(height, width, encoding, step, bytes(max(0, length)))
    result = outcome(decode_image, msg, max_pixels=400)
    assert_accounted_for(result)
    if isinstance(result, Decoded):
        assert result.bgr.shape == (height, width, 3)


_FRAME = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (16, 24, 3), dtype=np.uint8), (0, 0), 2)
_CONTENTS = [
    cv2.imencode(".jpg", _FRAME)[1].tobytes(),
    cv2.imencode(".jpg", _FRAME, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes(),
    cv2.imencode(".png", _FRAME)[1].tobytes(),
    cv2.imencode(".png", _FRAME.astype(np.uint16))[1].tobytes(),
]
formats = st.one_of(
    st.sampled_from(
        ["jpeg", "png", "", "bgr8; jpeg compressed bgr8", "bayer_rggb8; png compressed ", "compressedDepth"]
    ),
    st.text(string.printable, max_size=12),
)


@given(
    content=st.sampled_from(_CONTENTS),
    start=st.floats(0, 1),
    cut=st.integers(0, 40),
    inserted=st.binary(max_size=24),
    declared=formats,
)
def test_damaged_compressed_images(content, start, cut, inserted, declared):
    at = int(start * len(content))
    damaged = content[:at] + inserted + content[at + cut :]
    msg = SimpleNamespace(format=declared, data=damaged)
    result = outcome(decode_compressed, msg, max_pixels=400)
    assert_accounted_for(result)
    if isinstance(result, Decoded):
        assert image_size(msg, compressed=True) == result.bgr.shape[:2]


@pytest.mark.parametrize("kind", ["", "jpeg", "compressedDepth"])
@pytest.mark.parametrize("text", ["x", "\n", "\0\udce9"])
def test_what_an_error_says_of_a_long_text_is_short(text, kind):
    long = kind + text * 10_000
    for result in (
        outcome(decode_image, message(6, 8, long, 24, bytes(144)), max_pixels=400),
        outcome(decode_compressed, SimpleNamespace(format=long, data=b"neither"), max_pixels=400),
    ):
        assert isinstance(result, ImageFormatError)
        assert len(str(result)) < 1200
        assert "\n" not in str(result)
