"""Messages and file contents for tests, duck-typed: what sapnet.images.messages reads are fields."""

from __future__ import annotations

import array
from contextlib import contextmanager
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from sapnet.errors import ImageFormatError

PATTERNS = ("rggb", "bggr", "gbrg", "grbg")
# What each encoding needs for a tight row of 8 pixels, and the data of 6 such rows.
TIGHT = {
    **dict.fromkeys(("mono8", "8UC1", *(f"bayer_{p}8" for p in PATTERNS)), (8, 48)),
    **dict.fromkeys(("mono16", "uyvy", "yuv422", "yuyv", "yuv422_yuy2", *(f"bayer_{p}16" for p in PATTERNS)), (16, 96)),
    **dict.fromkeys(("rgb8", "bgr8", "8UC3"), (24, 144)),
    **dict.fromkeys(("rgba8", "bgra8", "8UC4"), (32, 192)),
    **dict.fromkeys(("rgb16", "bgr16"), (48, 288)),
    **dict.fromkeys(("rgba16", "bgra16"), (64, 384)),
    **dict.fromkeys(("nv12", "nv21"), (8, 72)),
    "nv24": (8, 144),
}


@contextmanager
def refused(kind, said):
    """An ImageFormatError of that kind, with that text."""
    with pytest.raises(ImageFormatError, match=said) as error:
        yield
    assert error.value.kind == kind


def message(height, width, encoding, step, data, is_bigendian=0):
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=is_bigendian, step=step, data=data
    )


def packed(pixels, encoding, pad=0, is_bigendian=0):
    """A message of packed pixels (H, W) or (H, W, C), each row followed by ``pad`` bytes of noise."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">" if is_bigendian else "<")))
    rows = rows.reshape(height, -1).view(np.uint8)
    rows = np.hstack([rows, np.full((height, pad), 0xA5, np.uint8)])
    return message(height, width, encoding, rows.shape[1], array.array("B", rows.tobytes()), is_bigendian)


def random_pixels(*shape, dtype=np.uint8):
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def compressed(content, declared="jpeg"):
    return SimpleNamespace(format=declared, data=content)


def smooth_bgr(height=24, width=32):
    return cv2.GaussianBlur(random_pixels(height, width, 3), (0, 0), 3)


def jpeg(frame, *parameters):
    return cv2.imencode(".jpg", frame, parameters)[1].tobytes()


def png(frame):
    return cv2.imencode(".png", frame)[1].tobytes()
