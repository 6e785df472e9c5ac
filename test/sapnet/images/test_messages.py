"""The fields of messages: what is refused and why, and what is written."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from message_builders import TIGHT, message, random_pixels, smooth_bgr
from sapnet.errors import ImageFormatError
from sapnet.images.messages import (
    IMAGE_ENCODINGS,
    decode_compressed,
    decode_image,
    encode_compressed,
    encode_image,
    output_encoding,
)


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
    with pytest.raises(ImageFormatError, match=text) as error:
        decode_image(msg, max_pixels=48)
    assert error.value.kind == kind


@pytest.mark.parametrize("encoding", IMAGE_ENCODINGS)
def test_step_and_length_are_exact(encoding):
    row, tight = TIGHT[encoding]
    for pad in (0, 4):
        size = tight * (row + pad) // row
        assert decode_image(message(6, 8, encoding, row + pad, bytes(size))).bgr.shape == (6, 8, 3)
        # Among them a last row without its padding.
        for wrong in (0, size - 1, size + 1, size - 4, 2 * size):
            with pytest.raises(ImageFormatError, match="data has") as error:
                decode_image(message(6, 8, encoding, row + pad, bytes(wrong)))
            assert error.value.kind == "data"
    with pytest.raises(ImageFormatError, match=f"step is {row - 1}") as error:
        decode_image(message(6, 8, encoding, row - 1, bytes(tight)))
    assert error.value.kind == "step"


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
