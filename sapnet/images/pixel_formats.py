"""How the pixels of each sensor_msgs/Image encoding lie in memory, and their way to uint8 BGR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sapnet.images.frame import Frame

Pixels = NDArray[Any]


@dataclass(frozen=True)
class PixelFormat:
    """Interleaved samples in rows that begin every ``step`` bytes.

    code: OpenCV's conversion to BGR; None where the samples are BGR. multiple_of: what height and width must be
    multiples of. smallest: the smallest side that the conversion is defined for. chroma_rows: rows of interleaved
    chroma that follow the luma, for each two rows of it.
    """

    samples: int
    code: int | None
    bits: int = 8
    multiple_of: tuple[int, int] = (1, 1)
    smallest: int = 1
    chroma_rows: int = 0

    def row_bytes(self, width: int) -> int:
        """Of a row's samples; ``step`` cannot be less."""
        return width * self.samples * self.bits // 8

    def total_bytes(self, height: int, step: int) -> int:
        """Of the whole image with rows ``step`` bytes apart."""
        return step * (height + height * self.chroma_rows // 2)

    def read(self, data: Frame, width: int, step: int, big_endian: bool) -> Pixels:
        """A view (rows, W) or (rows, W, samples) of an image's bytes, uint8 (N,), without those that pad the rows."""
        dtype = f"{'>' if big_endian else '<'}u{self.bits // 8}"
        rows: Pixels = data.reshape(-1, step)[:, : self.row_bytes(width)].view(dtype)
        return rows if self.samples == 1 else rows.reshape(len(rows), width, self.samples)


class Nv24(PixelFormat):
    """Full chroma, which OpenCV has no code for; its rows are twice as long as those of the luma, padding included."""

    def read(self, data: Frame, width: int, step: int, big_endian: bool) -> Pixels:
        """BGR (H, W, 3)."""
        height = data.size // step // 3
        luma = data[: step * height].reshape(height, step)[:, :width]
        chroma = data[step * height :].reshape(height, 2 * step)[:, : 2 * width].reshape(height, width, 2)
        # OpenCV's own YUV conversions take luma below black for black.
        return cv2.transform(cv2.merge([np.maximum(luma, 16), chroma]), _YUV_TO_BGR)


# BT.601, limited range, with the digits that OpenCV's 4:2:0 and 4:2:2 conversions use.
_BLUE, _GREEN, _RED = (1.164, 2.018, 0.0), (1.164, -0.391, -0.813), (1.164, 0.0, 1.596)
_YUV_TO_BGR = np.array([(*row, -16 * row[0] - 128 * (row[1] + row[2])) for row in (_BLUE, _GREEN, _RED)], np.float32)


def to_8_bit(pixels: Pixels, bits: int = 0) -> Pixels:
    """uint8 as it is; uint16 of either byte order scaled and rounded, so that white stays white.

    bits: those that are used, 0: all; values above their white become white.
    """
    if pixels.dtype.itemsize == 1:
        return pixels
    scaled: Pixels = cv2.convertScaleAbs(np.require(pixels, np.uint16, "A"), alpha=255 / white(bits))
    return scaled


def white(bits: int) -> int:
    """The largest value of a sample of which ``bits`` are used; 0: all 16."""
    return int(2 ** (bits or 16) - 1)


# OpenCV leaves images of fewer than three rows or columns black.
BAYER = {
    f"bayer_{pattern.lower()}{bits}": PixelFormat(1, getattr(cv2, f"COLOR_Bayer{pattern}2BGR"), bits=bits, smallest=3)
    for pattern in ("RGGB", "BGGR", "GBRG", "GRBG")
    for bits in (8, 16)
}
_UYVY = PixelFormat(2, cv2.COLOR_YUV2BGR_UYVY, multiple_of=(1, 2))
_YUYV = PixelFormat(2, cv2.COLOR_YUV2BGR_YUY2, multiple_of=(1, 2))

PIXEL_FORMATS: Mapping[str, PixelFormat] = {
    "rgb8": PixelFormat(3, cv2.COLOR_RGB2BGR),
    "bgr8": PixelFormat(3, None),
    "rgba8": PixelFormat(4, cv2.COLOR_RGBA2BGR),
    "bgra8": PixelFormat(4, cv2.COLOR_BGRA2BGR),
    "rgb16": PixelFormat(3, cv2.COLOR_RGB2BGR, bits=16),
    "bgr16": PixelFormat(3, None, bits=16),
    "rgba16": PixelFormat(4, cv2.COLOR_RGBA2BGR, bits=16),
    "bgra16": PixelFormat(4, cv2.COLOR_BGRA2BGR, bits=16),
    "mono8": PixelFormat(1, cv2.COLOR_GRAY2BGR),
    "mono16": PixelFormat(1, cv2.COLOR_GRAY2BGR, bits=16),
    **BAYER,
    "uyvy": _UYVY,
    "yuv422": _UYVY,  # the deprecated name
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,  # the deprecated name
    "nv12": PixelFormat(1, cv2.COLOR_YUV2BGR_NV12, multiple_of=(2, 2), chroma_rows=1),
    "nv21": PixelFormat(1, cv2.COLOR_YUV2BGR_NV21, multiple_of=(2, 2), chroma_rows=1),
    "nv24": Nv24(1, None, chroma_rows=4),
    "8UC1": PixelFormat(1, cv2.COLOR_GRAY2BGR),
    "8UC3": PixelFormat(3, None),
    "8UC4": PixelFormat(4, cv2.COLOR_BGRA2BGR),
}
