"""Messages: round trips over layouts, hostile ones that only ever raise ImageFormatError, what is refused and why."""

from __future__ import annotations

import array
import string

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from message_builders import TIGHT, compressed, jpeg, message, packed, png, random_pixels, refused, smooth_bgr
from sapnet.errors import ImageFormatError
from sapnet.images.messages import (
    IMAGE_ENCODINGS,
    Decoded,
    decode_compressed,
    decode_image,
    encode_compressed,
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


def outcome(decode, msg, max_pixels=400):
    """A frame within the limit or an ImageFormatError: nothing else may come of a message."""
    try:
        result = decode(msg, max_pixels=max_pixels)
    except ImageFormatError as error:
        result = error
    if isinstance(result, Decoded):
        height, width, channels = result.bgr.shape
        assert height * width <= max_pixels
        assert (channels, result.bgr.dtype) == (3, np.uint8)
    else:
        assert result.kind in KINDS
        assert str(result)
    return result


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
    outcome(decode_image, message(height, width, encoding, step, data, is_bigendian))


@given(st.data(), st.sampled_from(IMAGE_ENCODINGS), st.integers(0, 24), st.integers(0, 24), st.integers(0, 120))
def test_nearly_right_images(data, encoding, height, width, step):
    """Sizes and lengths that often fit together, so that most of them reach the conversion."""
    factors = {"nv12": [1.5, 1], "nv21": [1.5, 1], "nv24": [3, 1]}.get(encoding, [1])
    length = int(step * height * data.draw(st.sampled_from(factors))) + data.draw(st.sampled_from([0, 0, 0, -1, 1]))
    msg = message(height, width, encoding, step, bytes(max(0, length)))
    result = outcome(decode_image, msg)
    if isinstance(result, Decoded):
        assert result.bgr.shape == (height, width, 3)


_FRAME = smooth_bgr(16, 24)
_CONTENTS = [jpeg(_FRAME), jpeg(_FRAME, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), png(_FRAME), png(_FRAME.astype(np.uint16))]
_DECLARED = ["jpeg", "png", "", "bgr8; jpeg compressed bgr8", "bayer_rggb8; png compressed ", "compressedDepth"]
declarations = st.one_of(st.sampled_from(_DECLARED), st.text(string.printable, max_size=12))


@given(st.sampled_from(_CONTENTS), st.floats(0, 1), st.integers(0, 40), st.binary(max_size=24), declarations)
def test_damaged_compressed_images(content, start, cut, inserted, declared):
    at = int(start * len(content))
    damaged = content[:at] + inserted + content[at + cut :]
    msg = compressed(damaged, declared)
    result = outcome(decode_compressed, msg)
    if isinstance(result, Decoded):
        assert image_size(msg, compressed=True) == result.bgr.shape[:2]


@pytest.mark.parametrize("kind", ["", "jpeg", "compressedDepth"])
@pytest.mark.parametrize("text", ["x", "\n", "\0\udce9"])
def test_what_an_error_says_of_a_long_text_is_short(text, kind):
    long = kind + text * 10_000
    for result in (
        outcome(decode_image, message(6, 8, long, 24, bytes(144))),
        outcome(decode_compressed, compressed(b"neither", long)),
    ):
        assert isinstance(result, ImageFormatError)
        assert len(str(result)) < 1200
        assert "\n" not in str(result)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"height": 0}, "size", "no pixels"),
        ({"width": 0}, "size", "no pixels"),
        ({"height": 7, "width": 7, "data": b""}, "limit", "49 pixels; max_pixels allows 48"),
        ({"step": 2**32 - 1}, "data", "too few"),
        ({"encoding": "nv99"}, "encoding", "'nv99' is not supported"),
    ],
)
def test_malformed_fields(change, kind, text):
    msg = message(6, 8, "nv12", 8, bytes(72))
    assert decode_image(msg, max_pixels=48).bgr.shape == (6, 8, 3)
    vars(msg).update(change)
    with refused(kind, text):
        decode_image(msg, max_pixels=48)


@pytest.mark.parametrize("encoding", IMAGE_ENCODINGS)
def test_step_and_length_are_exact(encoding):
    row, tight = TIGHT[encoding]
    for pad in (0, 4):
        size = tight * (row + pad) // row
        assert decode_image(message(6, 8, encoding, row + pad, bytes(size))).bgr.shape == (6, 8, 3)
        # Among them a last row without its padding.
        for wrong in (0, size - 1, size + 1, size - 4, 2 * size):
            with refused("data", "data has"):
                decode_image(message(6, 8, encoding, row + pad, bytes(wrong)))
    with refused("step", f"step is {row - 1}"):
        decode_image(message(6, 8, encoding, row - 1, bytes(tight)))


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_tight_bgr8_message_is_not_copied(container):
    data = CONTAINERS[container](random_pixels(6, 8, 3).tobytes())
    decoded = decode_image(message(6, 8, "bgr8", 24, data))
    assert np.shares_memory(decoded.bgr, np.frombuffer(data, np.uint8))


def test_bgr8_and_gray_are_written_without_a_copy():
    frame, mask = random_pixels(6, 8, 3), random_pixels(6, 8)
    assert np.shares_memory(encode_image(frame, "bgr8").data, frame)
    assert np.shares_memory(encode_image(mask, "mono8").data, mask)
    np.testing.assert_array_equal(encode_image(frame[:, ::2], "bgr8").data, frame[:, ::2].ravel())


def test_output_encoding():
    kept = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")
    for source in (*IMAGE_ENCODINGS, "32FC1"):
        assert output_encoding("bgr8", source) == "bgr8"
        assert output_encoding("same", source) == (source if source in kept else "bgr8")


@pytest.mark.parametrize(
    ("source", "codec", "declared"),
    [
        ("bgr8", "jpeg", "bgr8; jpeg compressed bgr8"),
        ("rgb8", "jpeg", "rgb8; jpeg compressed bgr8"),
        ("rgba8", "jpeg", "rgba8; jpeg compressed bgr8"),
        ("mono8", "jpeg", "mono8; jpeg compressed mono8"),
        ("bgr8", "png", "bgr8; png compressed bgr8"),
        ("mono8", "png", "mono8; png compressed "),
    ],
)
def test_compressed_frames_are_named_as_image_transport_does_and_come_back(source, codec, declared):
    bgr = smooth_bgr()
    fields = encode_compressed(bgr, source_encoding=source, codec=codec)
    assert fields.format == declared
    assert fields.data.dtype == np.uint8
    decoded = decode_compressed(fields)
    expected = bgr if source != "mono8" else cv2.cvtColor(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    assert decoded.encoding == source
    if codec == "png":
        np.testing.assert_array_equal(decoded.bgr, expected)
    else:
        assert cv2.PSNR(decoded.bgr, expected) > 35
