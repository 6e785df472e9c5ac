"""Every encoding, from colours to a message's bytes by a formula of the test's own and back to the colours."""

from __future__ import annotations

import numpy as np
import pytest

from message_builders import PATTERNS, message, packed, refused
from sapnet.images.messages import decode_image


def color_blocks():
    """BGR (12, 16, 3) of 4x4 blocks in saturated and plain colours."""
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (30, 120, 220), (200, 40, 90)]
    blocks = np.array([colors[i % len(colors)] for i in range(12)], np.uint8).reshape(3, 4, 3)
    return blocks.repeat(4, axis=0).repeat(4, axis=1)


def bt601(bgr):
    """Y, U, V (H, W) in BT.601's limited range, by the standard's own formula."""
    b, g, r = (bgr[..., i].astype(float) / 255 for i in range(3))
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    planes = (16 + 219 * luma, 128 + 224 * (b - luma) / 1.772, 128 + 224 * (r - luma) / 1.402)
    return [np.round(plane).astype(np.uint8) for plane in planes]


def assert_close(actual, expected, levels):
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected.astype(int)).max() <= levels


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_gives_the_colors_that_the_mosaic_was_made_of(pattern, bits, is_bigendian):
    bgr = color_blocks()
    mosaic = np.empty(bgr.shape[:2], np.uint8)
    for place, color in enumerate(pattern):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = bgr[row::2, column::2, "bgr".index(color)]
    stored = mosaic if bits == 8 else mosaic.astype(np.uint16) * 257
    decoded = decode_image(packed(stored, f"bayer_{pattern}{bits}", pad=4, is_bigendian=is_bigendian))
    # Of a block: interpolation mixes colours over edges.
    inside = np.outer(*(np.isin(np.arange(side) % 4, (1, 2)) for side in mosaic.shape))
    np.testing.assert_array_equal(decoded.bgr[inside], bgr[inside])


@pytest.mark.parametrize("pad", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "places"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")]
)
def test_yuv_422(encoding, places, pad):
    bgr = color_blocks()
    luma, u, v = bt601(bgr)
    samples = {"y": iter((luma[:, ::2], luma[:, 1::2])), "u": iter((u[:, ::2],)), "v": iter((v[:, ::2],))}
    pixels = np.stack([next(samples[place]) for place in places], axis=-1).reshape(*luma.shape, 2)
    assert_close(decode_image(packed(pixels, encoding, pad)).bgr, bgr, 3)


def semi_planar(encoding, bgr, pad=0):
    """V4L2's layout: the chroma rows are padded as the luma rows are, those of nv24 twice as much."""
    luma, u, v = bt601(bgr)
    chroma = np.stack([v, u] if encoding == "nv21" else [u, v], axis=-1)
    if encoding != "nv24":
        chroma = chroma[::2, ::2]
    height, width = luma.shape
    chroma = chroma.reshape(len(chroma), -1)
    rows = [*np.pad(luma, ((0, 0), (0, pad))), *np.pad(chroma, ((0, 0), (0, pad * chroma.shape[1] // width)))]
    return message(height, width, encoding, width + pad, np.concatenate(rows).tobytes())


@pytest.mark.parametrize("pad", [0, 1, 16])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
def test_semi_planar_yuv(encoding, pad):
    bgr = color_blocks()
    msg = semi_planar(encoding, bgr, pad)
    decoded = decode_image(msg).bgr
    assert_close(decoded, bgr, 3)
    if not pad:  # some drivers write size / height as the step
        msg.step = len(msg.data) // msg.height
        np.testing.assert_array_equal(decode_image(msg).bgr, decoded)


@pytest.mark.parametrize(
    ("encoding", "height", "width", "said"),
    [
        ("uyvy", 4, 7, "width that is a multiple of 2"),
        ("nv12", 5, 8, "height that is one of 2"),
        ("bayer_rggb8", 2, 8, "3 of each"),
    ],
)
def test_sizes_that_an_encoding_cannot_have_are_refused(encoding, height, width, said):
    with refused("size", said):
        decode_image(message(height, width, encoding, 16, bytes(64)))
